"""Guesses of a shorter network's configuration: counts, lists with an entry for each block, and lists of block numbers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from delayer.store.shorter.lists import BlockList
from delayer.store.shorter.places import Config, Spot, at, changed_at, dotted, numbers

COUNTS = re.compile(r".*(layer|depth|block|num_h|stage|n_l).*", re.I)
"""Names under which counts and lists with an entry for each block are looked for first."""
KINDS = re.compile(r"layer|block|dense|sparse|moe|attn|attention|global|window|period|every|first|last|step|freq|offset|interval")
"""Names of numbers that say which of the blocks are of a kind."""


def guesses(whole: Config, changed: Sequence[BlockList], spots: Mapping[str, Spot]) -> Iterator[Config]:
    """Configurations of the shorter network, the likeliest first."""
    counted = changed_at(whole, {spots[one.path]: len(one.left) for one in changed})
    by_name, every = counted, counted
    for one in changed:
        lists = per_block(counted, spots[one.path], len(one.names))
        by_name = without(by_name, [spot for spot in lists if _is_per_block(at(counted, spot), spot)], one)
        every = without(every, lists, one)
    first = outlets(by_name, changed, spots)
    numbered = _numbered_anew(first, changed, spots)
    yield numbered
    yield first
    yield _numbered_anew(outlets(every, changed, spots), changed, spots)
    yield counted
    # How many of the first blocks are of a kind, and then how often a kind returns.
    for one in changed:
        spot_of = spots[one.path]
        small = [
            spot
            for spot, value in numbers(numbered)
            if spot[:-1] == spot_of[:-1] and spot != spot_of and 0 < value <= len(one.names) and KINDS.search(dotted(spot))
        ]
        for spot in small:
            yield changed_at(numbered, {spot: sum(k < at(numbered, spot) for k in one.left)})
        for spot in small:
            for value in range(1, len(one.left) + 1):
                yield changed_at(numbered, {spot: value})


def _is_per_block(values: Sequence[Any], spot: Spot) -> bool:
    return bool(COUNTS.fullmatch(dotted(spot))) or all(isinstance(value, str) for value in values)


def per_block(config: Config, count: Spot, num: int) -> list[Spot]:
    """Lists as long as a list of blocks, beside its count."""
    home = at(config, count[:-1])
    beside = count[:-1] if isinstance(home, Mapping) else count[:-2]
    return [
        (*beside, key)
        for key, value in at(config, beside).items()
        if isinstance(value, list | tuple) and len(value) == num and (*beside, key) != count[:-1]
    ]


def without(config: Config, lists: Sequence[Spot], one: BlockList) -> Config:
    """The configuration with entries for those blocks of a list alone that stay.

    Of an encoder and a decoder beside one another each has the lists of its name.
    """
    side = next((word for word in ("encoder", "decoder") if word in one.path), "")
    other = {"encoder": "decoder", "decoder": "encoder"}.get(side, "-")
    mine = [spot for spot in lists if other not in str(spot[-1]) or side in str(spot[-1])]
    values = {spot: [at(config, spot)[k] for k in one.left] for spot in mine if len(at(config, spot)) == len(one.names)}
    return changed_at(config, values)


def _numbered_anew(config: Config, changed: Sequence[BlockList], spots: Mapping[str, Spot]) -> Config:
    """Lists of block numbers with the new numbers of those that stay."""
    values = {}
    for one in changed:
        beside = spots[one.path][:-1] if isinstance(at(config, spots[one.path][:-1]), Mapping) else spots[one.path][:-2]
        for key, value in at(config, beside).items():
            if (
                isinstance(value, list | tuple)
                and value
                and all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x < len(one.names) for x in value)
                and len(set(value)) == len(value)
                and re.search(r"layer|idx|idxs|indices|_ids|blocks", key)
                and key != "out_indices"
            ):
                values[(*beside, key)] = [one.left.index(x) for x in value if x in one.left]
    return changed_at(config, values)


def outlets(config: Config, changed: Sequence[BlockList], spots: Mapping[str, Spot]) -> Config:
    """A backbone's names of stages, one a block and one for what comes before, and the outputs that it hands on."""
    values: dict[Spot, Any] = {}
    for one in changed:
        beside = spots[one.path][:-1]
        home = at(config, beside)
        names = home.get("stage_names") if isinstance(home, Mapping) else None
        if not names or len(names) != len(one.names) + 1:
            continue
        left = names[: len(one.left) + 1]
        outlets = [sum(k < i % len(names) for k in one.left) for i in home.get("out_indices") or ()]
        values |= {(*beside, "stage_names"): left}
        if outlets:
            values |= {(*beside, "out_indices"): sorted(set(outlets))}
            values |= {(*beside, "out_features"): [left[i] for i in sorted(set(outlets))]}
    return changed_at(config, values)
