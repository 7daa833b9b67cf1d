"""Places in nested configurations: what stands there, where a number stands, and copies with other values."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

Spot = tuple[str | int, ...]
"""Where a value stands in nested configurations: keys, and positions in lists."""
Config = dict[str, Any]


def places(config: Config, value: int) -> list[Spot]:
    """Where a whole number stands."""
    return [spot for spot, found in numbers(config) if found == value]


def numbers(config: Any, path: Spot = ()) -> Iterator[tuple[Spot, int]]:
    """Every whole number of nested configurations, with its place."""
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list | tuple) else ()
    for key, value in items:
        if isinstance(value, int) and not isinstance(value, bool):
            yield (*path, key), value
        elif key not in ("id2label", "label2id"):
            yield from numbers(value, (*path, key))


def at(config: Any, spot: Spot) -> Any:
    """What stands at a place."""
    for key in spot:
        config = config[key]
    return config


def changed_at(config: Config, values: Mapping[Spot, Any]) -> Config:
    """A copy with other values at some places."""
    copy = deepcopy(config)
    for spot, value in values.items():
        home: Any = copy
        for key in spot[:-1]:
            if isinstance(home[key], tuple):
                home[key] = list(home[key])
            home = home[key]
        home[spot[-1]] = value
    return copy


def dotted(spot: Spot) -> str:
    """A place in words."""
    return ".".join(map(str, spot))
