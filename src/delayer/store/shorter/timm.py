"""The arguments with which timm builds a network of fewer blocks."""

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from delayer.network.chain import Chain
from delayer.network.notes import pretrained_of
from delayer.store.artefact import Source
from delayer.store.closed import TIMM_NUMBERS
from delayer.store.shorter.likeness import difference
from delayer.store.shorter.lists import BlockList, NotOrdinary
from delayer.store.timm_arguments import timm_skeleton

DEPTHS = ("depth", "depths", "layers", "num_blocks", "num_layers")


def architecture(source: Source, model: nn.Module) -> str:
    """The name under which timm builds a network."""
    stated = pretrained_of(model).get("architecture") or source.name
    return stated.split(".")[0]


def arguments(chain: Chain, source: Source, lists: Sequence[BlockList]) -> dict[str, Any]:
    """All arguments of the shorter network: those of the original, and its depth. Raises NotOrdinary."""
    name, reasons = architecture(source, chain.model), {}
    for argument, value in _guesses(chain.model, lists):
        given = dict(source.config) | {argument: value}
        try:
            built = timm_skeleton(name, given)
        except Exception:  # whatever a constructor raises that does not know the argument
            continue
        if not (reason := difference(chain.model, built, lists)):
            return given
        reasons[argument] = reason
    if reasons:
        argument, reason = next(iter(reasons.items()))
        raise NotOrdinary(f"timm's {name} with another {argument} is another network: {reason}")
    raise NotOrdinary(f"timm builds {name} with a fixed number of blocks, which no argument changes")


def _guesses(model: nn.Module, lists: Sequence[BlockList]) -> Iterator[tuple[str, Any]]:
    """Arguments that may say how many blocks a network has, with the numbers that are left."""
    own = inspect.signature(type(model).__init__).parameters
    likely = [name for name in own if re.search(r"depth|layers|blocks", name) and name in TIMM_NUMBERS]
    kinds: dict[str, list[BlockList]] = {}
    for one in lists:
        kinds.setdefault(re.sub(r"\d+", "#", one.path), []).append(one)
    changed = [of_kind for of_kind in kinds.values() if any(one.gone for one in of_kind)]
    if len(changed) != 1:
        return
    lengths = tuple(len(one.left) for one in changed[0])
    for name in dict.fromkeys([*likely, *DEPTHS]):
        if len(lengths) == 1:
            yield name, lengths[0]
        yield name, lengths
