"""What model families look like, and how a model is recognised as one of them.

Adding a family is adding one file that registers a `Family`; nothing else names a model anywhere.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from delayer.errors import ModelError
from delayer.families._facts import facts_of
from delayer.families._letting_go import with_reasons
from delayer.families._probe import BY_HAND, blocks_from, probe
from delayer.families._runs import runs_of
from delayer.families._samples import sample_axes
from delayer.families._suggesting import likeliest
from delayer.families._unsaid import with_unsaid
from delayer.families.automatic import blocks_by_structure, guess_axis
from delayer.network.blocks import Family
from delayer.network.calling import Inputs, each_tensor, first_tensor
from delayer.network.chain import Chain
from delayer.network.rescaled import settle_
from delayer.network.wrapped import unwrapped
from delayer.registry import Registry

families: Registry[Family] = Registry("family", "delayer.families")


def family_of(model: nn.Module) -> Family | None:
    """The family whose classes a model belongs to, the most specific class first; None when nobody described it."""
    for kind in type(model).__mro__:
        name = f"{kind.__module__}.{kind.__qualname__}"
        for family in families.values():
            if any(re.fullmatch(pattern, name) for pattern in family.classes):
                return family
    return None


def chain_of(model: nn.Module, example: Inputs | None = None, *, blocks: str | None = None, axis: int | None = None) -> Chain:
    """The chain of a model: its family's, or one found by structure and by the shapes of one batch.

    example: inputs of one small batch; needed where the family cannot make them up (an own network).
    blocks: a regular expression for the paths of the blocks, to describe a network by hand.
    axis: where its features are, -1 or 1; found from the shapes when not given.
    What is wrapped (torch.compile, DataParallel, adapters of peft) is unwrapped first: the chain is about the network inside.
    Raises ModelError when no repeated blocks are found, when the forward pass fails, or for a quantised network.
    """
    model = settle_(unwrapped(model))
    family = family_of(model) if blocks is None else None
    if example is None and family is not None and family.example is not None:
        example = family.example(model)
        if example is not None:
            dtype = next((p.dtype for p in model.parameters()), torch.float32)
            example = each_tensor(lambda x: x.to(dtype) if x.is_floating_point() else x, example)
    if example is None:
        raise ModelError(
            f"{type(model).__name__} is no family that delayer can make inputs for, so its shapes must come from data. "
            "Pass one batch: chain_of(model, example)."
        )
    if family is not None:
        # What the network reads of a described family's blocks is known, and tests hold it.
        return _chain(model, family, _matching(model, family.blocks, example), example)
    name = "by hand" if blocks else "automatic"
    family = Family(name=name, classes=(), blocks=blocks or "", axis=axis, rows="mean", shortens=False)
    if blocks is not None:
        return _watched(model, family, _matching(model, blocks, example), example)
    return _first_that_can_be_cut(model, family, blocks_by_structure(model, example), example)


def _first_that_can_be_cut(model: nn.Module, family: Family, found: Iterator[list[str]], example: Inputs) -> Chain:
    """The chain of the first blocks of which any may go, since smaller parts may where larger ones may not; else the first.

    Raises what the first of them raises where none can be read.
    """
    chains: list[Chain] = []
    problem: ModelError | None = None
    for paths in found:
        try:
            chains.append(_watched(model, family, paths, example))
        except ModelError as error:
            problem = problem or error
            continue
        if any(block.removable for block in chains[-1].blocks):
            return chains[-1]
    if not chains and problem is not None:
        raise problem
    return chains[0]


def _watched(model: nn.Module, family: Family, paths: list[str], example: Inputs) -> Chain:
    """The chain of blocks of which nothing is known but what the network does with them and without them."""
    chain = _chain(model, family, paths, example)
    chain = Chain(model, chain.family, with_reasons(chain, example))
    return Chain(model, chain.family, with_unsaid(chain, example))


def _chain(model: nn.Module, family: Family, paths: list[str], example: Inputs) -> Chain:
    """The chain of blocks at these paths, as one forward pass shows it."""
    visits = probe(model, paths, example)
    axis = guess_axis(model, visits) if family.axis is None else family.axis
    samples = sample_axes(model, visits, example, axis)
    return Chain(model, replace(family, axis=axis), blocks_from(visits, axis, samples, len(first_tensor(example))))


def chain_from_facts(model: nn.Module, facts: dict[str, Any]) -> Chain:
    """The chain that `Chain.facts` described, over another copy of the same network.

    Raises ModelError for facts that are damaged, and where the copy has its blocks elsewhere.
    """
    stated, paths = facts_of(facts), {path for path, _ in model.named_modules()}
    if (away := next((block.path for block in stated.blocks if block.path not in paths), None)) is not None:
        raise ModelError(
            f"This {type(model).__name__} has no module {away}, where a block was when it was saved. "
            "Its library may have renamed it since: install the version that saved it, or cut it anew."
        )
    family = family_of(model)
    if family is None or family.name != stated.family:
        family = Family(name=stated.family, classes=(), blocks="", axis=None, rows=stated.rows, shortens=False)
    return Chain(model, replace(family, axis=stated.axis), stated.blocks)


def _matching(model: nn.Module, pattern: str, example: Inputs) -> list[str]:
    """The paths that a pattern matches. Raises ModelError where it is none, matches nothing, or blocks inside blocks."""
    try:
        paths = [path for path, _ in model.named_modules() if re.fullmatch(pattern, path)]
    except re.error as error:
        raise ModelError(
            f"{pattern!r} is no regular expression ({error}). Write one that matches the whole paths of the "
            r"blocks, such as layers\.\d+."
        ) from error
    if not paths:
        some = ", ".join(path for path, _ in list(model.named_modules())[1:4])
        found = likeliest(model, runs_of(model, example))
        would = f"A pattern that would match: '{found[2]}', its {len(found[1])} {found[0]}." if found else BY_HAND
        raise ModelError(
            f"No module of {type(model).__name__} has a path that matches {pattern!r}; paths are like {some}. {would}"
        )
    for outer in paths:
        prefix = f"{outer}." if outer else ""
        if inner := next((path for path in paths if path != outer and path.startswith(prefix)), None):
            raise ModelError(
                f"Block {inner} lies inside block {outer or 'the whole network'}, which {pattern!r} matches as well. "
                "Write an expression that matches the whole path of one of them only."
            )
    return paths
