"""Weights whose names a wrapper changed: `module.` of DataParallel, `model.` of Lightning, `_orig_mod.` of torch.compile."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from delayer.errors import DelayerWarning

INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Wrappers of single modules, whose names stand anywhere in a path."""
MOST = 4
"""Wrappers around a whole network, at most."""


def mended_names(given: Collection[str], own: Collection[str], base: str = "") -> tuple[dict[str, str], str]:
    """New names for weights, by their old ones, and what was taken off, in words; the names as they are where none fit better.

    own: the names that the network has. base: a prefix that its library adds or takes off by itself, such as "bert.".
    Only names are taken off with which more of the weights find their place, and as few of them as that takes.
    """
    places = {name.removeprefix(base) for name in own}
    best, removed, most = {name: name for name in given}, "", sum(name.removeprefix(base) in places for name in given)
    for names, taken in _candidates(given):
        fitting = sum(name.removeprefix(base) in places for name in names.values())
        if fitting > most and len(set(names.values())) == len(names):
            best, removed, most = names, taken, fitting
    return best, removed


def _candidates(given: Collection[str]) -> Iterator[tuple[dict[str, str], str]]:
    """What the weights may have been called before they were wrapped, the least change first."""
    yield from _without_fronts({name: name for name in given}, [], [])
    if inside := [part for part in INSIDE if any(part in name.split(".") for name in given)]:
        plain = {name: ".".join(part for part in name.split(".") if part not in INSIDE) for name in given}
        yield plain, _in_words([], inside)
        yield from _without_fronts(plain, [], inside)


def _without_fronts(names: Mapping[str, str], fronts: list[str], inside: Collection[str]) -> Iterator[tuple[dict[str, str], str]]:
    """The names without their first part, and again; names that begin otherwise (a loss's weights) keep theirs."""
    if len(fronts) == MOST:
        return
    firsts = {name.split(".")[0] for name in names.values() if "." in name}
    common = {first for first in firsts if all(name.startswith(f"{first}.") for name in names.values())}
    for front in sorted(common | ({"module", "model"} & firsts)):
        shorter = {old: name.removeprefix(f"{front}.") for old, name in names.items()}
        yield shorter, _in_words([*fronts, front], inside)
        yield from _without_fronts(shorter, [*fronts, front], inside)


def _in_words(fronts: Collection[str], inside: Collection[str]) -> str:
    return " and ".join(f"{part}." for part in (*fronts, *inside))


def say_mended(where: str, taken: str) -> None:
    """Warn that the names of weights were changed, if they were."""
    if taken:
        warnings.warn(
            f"The tensors of {where} fit without {taken} in their names, which a wrapper puts there; they are read without.",
            DelayerWarning,
            stacklevel=3,
        )


def mended(weights: Mapping[str, Any], own: Collection[str], where: str, base: str = "") -> dict[str, Any]:
    """The weights, or their shapes, under the names of the network; a DelayerWarning says what was taken off."""
    names, taken = mended_names(weights, own, base)
    say_mended(where, taken)
    return {names[name]: value for name, value in weights.items()}
