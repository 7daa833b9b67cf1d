"""The Hugging Face configuration that builds a network of fewer blocks, found by building skeletons of its guesses."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import groupby, islice
from typing import Any

import torch
from torch import nn

from delayer.libraries import first_line, library, quiet
from delayer.network.chain import Chain
from delayer.network.notes import config_of
from delayer.store.artefact import Source
from delayer.store.shorter.caches import with_room
from delayer.store.shorter.guesses import COUNTS, guesses, outlets, per_block, without
from delayer.store.shorter.likeness import difference
from delayer.store.shorter.lists import BlockList, NotOrdinary, length_of, lists_of
from delayer.store.shorter.places import Config, Spot, changed_at, dotted, numbers, places

MOST_GUESSES = 40
"""Configurations that are built at most, once the counts are known."""


class Configurations:
    """The configurations of the shorter networks that a network can be cut to; its counts are looked for once."""

    def __init__(self, chain: Chain, source: Source):
        self.kind: Any = type(chain.model)
        self.whole: Config = config_of(chain.model).to_dict()
        self.build = _builder(self.kind, source.arguments)
        self.spots: dict[str, Spot] = {}
        built = self.build(self.whole)
        if isinstance(built, str):
            raise NotOrdinary(f"its configuration alone does not build it ({built})")
        if reason := difference(built, chain.model, lists_of(chain, ())):
            raise NotOrdinary(f"its configuration builds another network than it is: {reason}")
        self.original = built

    def without(self, lists: Sequence[BlockList]) -> Config:
        """The configuration that builds what is left, as plain data. Raises NotOrdinary.

        Its counts are the entries that, lowered by one, take one block from a list and change nothing else. Lists with an
        entry for each block lose those of the blocks that went; lists of block numbers, and counts of the first blocks of a
        kind, are counted anew where the network would be another one otherwise.
        """
        changed = [one for one in lists if one.gone]
        for one in changed:
            if one.path not in self.spots:
                self.spots[one.path] = _count(self.whole, one, lists, self.build)
        spots = {one.path: self.spots[one.path] for one in changed}
        for one in changed:
            if any(spots[one.path] == spots[other.path] and len(other.left) != len(one.left) for other in changed):
                count = dotted(spots[one.path])
                raise NotOrdinary(f"{one.path} and another list share one count, {count}, and would differ in length")
        reasons = []
        for guess in islice(guesses(self.whole, changed, spots), MOST_GUESSES):
            if not (reason := self._fault(guess, lists)):
                short = self._with_derived(guess, lists)
                fuller = with_room(short, self.kind, lists)
                return short if fuller != short and self._fault(fuller, lists) else fuller
            reasons.append(reason)
        counts = " and ".join(dict.fromkeys(dotted(spot) for spot in spots.values()))
        raise NotOrdinary(f"the network that {self.kind.__name__} builds from a lower {counts} is another one: {reasons[0]}")

    def _fault(self, config: Config, lists: Sequence[BlockList]) -> str:
        """What tells the network that a configuration builds from what is left; "" for nothing."""
        built = self.build(config)
        return built if isinstance(built, str) else difference(self.original, built, lists)

    def _with_derived(self, short: Config, lists: Sequence[BlockList]) -> Config:
        """The short configuration, with further counts of blocks that its class works out of the first (an encoder's, say)."""
        short = spelled_out_anew(self.whole, short)
        lengths = {len(one.names) for one in lists if one.gone}
        for spot, value in list(numbers(short)):
            if (
                len(spot) != 1
                or value not in lengths
                or value != self.whole.get(str(spot[0]))
                or not COUNTS.fullmatch(dotted(spot))
            ):
                continue
            try:
                before, after = (
                    getattr(
                        self.kind.config_class.from_dict({k: v for k, v in deepcopy(c).items() if k != spot[0]}), dotted(spot)
                    )
                    for c in (self.whole, short)
                )
            except Exception:  # the class cannot do without it
                continue
            changed = changed_at(short, {spot: after})
            # A decoder's count may follow an encoder's by default, and be its own here.
            if before == value and isinstance(after, int) and after != value and not self._fault(changed, lists):
                short = changed
        return short


def spelled_out_anew(whole: Config, short: Config) -> Config:
    """The short configuration with kinds of layers in runs, [[kinds, times], ...], that spell out what its lists say.

    A class that is given both believes the list, and so a run that stays as it was would say what is not so (GPT-Neo).
    """
    runs = {key: spelled for key, value in whole.items() if (spelled := _spelled_out(value))}
    lists = {name: (value, short[name]) for name, value in whole.items() if isinstance(value, list) and name in short}
    for key, spelled in runs.items():
        now = [after for before, after in lists.values() if before == spelled and after != spelled]
        if now:
            short = changed_at(short, {(key,): [[[kind], len(list(same))] for kind, same in groupby(now[0])]})
    return short


def _spelled_out(value: Any) -> list[Any]:
    """What runs of kinds stand for, one after another; nothing for whatever else."""
    if not isinstance(value, list | tuple):
        return []
    found: list[Any] = []
    for run in value:
        if not (isinstance(run, list | tuple) and len(run) == 2 and isinstance(run[0], list | tuple) and isinstance(run[1], int)):
            return []
        found += list(run[0]) * run[1]
    return found


def _builder(kind: Any, arguments: Mapping[str, Any]) -> Callable[[Config], nn.Module | str]:
    """Builds the skeleton of a configuration, or says what the library says against it."""
    transformers = library("transformers", "text")

    def build(config: Config) -> nn.Module | str:
        try:
            with quiet(transformers):
                made = kind.config_class.from_dict(deepcopy(config))
                try:
                    with torch.device("meta"):
                        return kind(made, **arguments)
                except (NotImplementedError, RuntimeError):  # some look at numbers, which meta has none of
                    return kind(made, **arguments)
        except Exception as error:  # whatever a configuration or a constructor raises
            return first_line(error)

    return build


def _count(whole: Config, one: BlockList, lists: Sequence[BlockList], build: Callable[[Config], nn.Module | str]) -> Spot:
    """Where a configuration counts the members of a list: lowered by one it takes one of them, and no other list's."""
    num = len(one.names)
    found = sorted(places(whole, num), key=lambda spot: not COUNTS.fullmatch(dotted(spot)))
    shortened = BlockList(one.path, one.names, frozenset(one.names[-1:]))
    for spot in found:
        lowered = changed_at(whole, {spot: num - 1})
        lowered = outlets(lowered, [shortened], {one.path: spot})
        for guess in (without(lowered, per_block(lowered, spot, num), shortened), lowered):
            built = build(guess)
            if isinstance(built, str):
                continue
            lengths = {other.path: length_of(built, other) for other in lists}
            if lengths[one.path] == num - 1 and all(
                lengths[other.path] in (len(other.names), len(other.names) - (len(other.names) == num))
                for other in lists
                if other is not one
            ):
                return spot
    raise NotOrdinary(f"no entry of its configuration says that {one.path or 'it'} has {num} blocks")
