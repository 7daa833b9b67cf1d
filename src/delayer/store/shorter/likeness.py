"""Whether a skeleton that a library builds is what is left of a network: its modules, shapes, and what its blocks are told."""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from delayer.store.shorter.lists import BlockList, length_of

PLAIN = (bool, int, float, str, type(None))
NUMBERING = re.compile(r".*(idx|index|layer_?id|layer_?number|block_?num)\w*|training|.*drop.*|num_layers|expert_capacity", re.I)
"""Attributes that number a block, say what happens in training only, or are set anew by each answer."""

SIZES = re.compile(r"window|shift|size|stride|kernel|dilat|chunk|width|dim|num|heads", re.I)
"""Attributes that are no block's number, though they may equal it."""


def difference(old: nn.Module, new: nn.Module, lists: Sequence[BlockList]) -> str:
    """What tells a shorter network from what is left of a longer one, as a clause; "" for nothing.

    Everything must be there, of the same class, with parameters of the same shapes; inside blocks every plain attribute (a
    window, a scale, a kind of layer) must be what it was, since a short input may not show what it does.
    """
    for one in lists:
        if (length := length_of(new, one)) != len(one.left):
            return f"{one.path} has {length} blocks then where {len(one.left)} are left"
    prefixes = {f"{one.at(name)}.": f"{one.at(there)}." for one in lists for name, there in one.moves.items()}
    doomed = tuple(f"{one.at(name)}." for one in lists for name in one.gone)
    theirs, seen = dict(new.named_modules()), set()
    numbers = _numbers(lists)
    lefts = [one for one in lists if one.gone]
    for path, module in old.named_modules():
        if f"{path}.".startswith(doomed):
            continue
        prefix = next((p for p in prefixes if f"{path}.".startswith(p)), "")
        there = (prefixes[prefix] + f"{path}.".removeprefix(prefix))[:-1] if prefix else path
        seen.add(there)
        if (found := _unlike(module, theirs.get(there))) is not None:
            return f"{path or 'the network'} {found}"
        if prefix and (found := _told_otherwise(module, theirs[there], numbers[prefix], lefts)):
            return f"{path} {found}"
    if more := sorted(theirs.keys() - seen):
        return f"{more[0]} is there then, which the network has not"
    return ""


def _numbers(lists: Sequence[BlockList]) -> dict[str, set[tuple[int, int]]]:
    """For each block that stays the pairs (old, new) of its numbers: in its list, and among all blocks; from 0 and from 1."""
    found, before, after = {}, 0, 0
    for one in lists:
        for j, k in enumerate(one.left):
            pairs = {(k, j), (k + 1, j + 1), (before + k, after + j), (before + k + 1, after + j + 1)}
            found[f"{one.at(one.names[k])}."] = pairs
        before, after = before + len(one.names), after + len(one.left)
    return found


def _unlike(mine: nn.Module, other: nn.Module | None) -> str | None:
    if other is None:
        return "is missing then"
    if type(mine).__qualname__ != type(other).__qualname__:
        return f"is a {type(other).__name__} then, not a {type(mine).__name__}"
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters(recurse=False)} for m in (mine, other)]
    if shapes[0] != shapes[1]:
        name = next(iter(dict(shapes[0].items() ^ shapes[1].items())))
        return f"has other parameters then ({name})"
    return None


def _told_otherwise(mine: nn.Module, other: nn.Module, numbers: set[tuple[int, int]], lists: Sequence[BlockList]) -> str:
    if re.search(r"drop|stochastic", type(mine).__name__, re.I):  # what happens in training only
        return ""
    theirs = _attributes(other)
    for name, value in _attributes(mine).items():
        then = theirs.get(name)
        number = isinstance(value, int) and not isinstance(value, bool) and not SIZES.search(name)
        whole = any(_of_each(value, then, one) for one in lists)
        if value != then and not (number and (value, then) in numbers) and not whole:
            return f"has {name}={then} then, not {value}"
    return ""


def _of_each(value: Any, then: Any, one: BlockList) -> bool:
    """Whether a block holds a list with an entry for each block of the network, and the right ones are left of it."""
    return isinstance(value, tuple) and len(value) == len(one.names) and then == tuple(value[k] for k in one.left)


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not NUMBERING.fullmatch(name)
        and (isinstance(value, PLAIN) or (isinstance(value, tuple | list) and all(isinstance(x, PLAIN) for x in value)))
    }


def looks_of(block: nn.Module) -> tuple:
    """What tells a block from others but for its weights and its number."""
    return tuple(
        (
            path,
            type(module).__qualname__,
            tuple(tuple(p.shape) for p in module.parameters(recurse=False)),
            str(_attributes(module)),
        )
        for path, module in block.named_modules()
    )
