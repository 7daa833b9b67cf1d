"""Search strategies: how the next candidate is drawn, and which one wins. Adding one is adding one file.

A strategy is a pure function of what has been seen, so that the same one serves real training and a table, and a
search that was killed goes on exactly where it stood.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from pydantic import Field

from delayer.nas.space import Seen, Space
from delayer.registry import Registry
from delayer.study import Record


class StrategyOptions(Record):
    """What strategies may be told."""

    keep: int = Field(default=5, gt=0)
    """RedTest: among so many of the best by cheap validation accuracy the least redundant wins."""
    population: int = Field(default=10, gt=1)
    """Evolution: how many of the latest trials may be parents."""
    tournament: int = Field(default=3, gt=0)
    """Evolution: how many of them are drawn, with replacement; the best is the parent."""


class Ask(Protocol):
    """What a strategy is: a function that names the next candidate."""

    __name__: str

    def __call__(self, space: Space, seen: Sequence[Seen], taken: set[str], rng: Random, options: StrategyOptions) -> str | None:
        """The next candidate, or None when the space holds no other.

        seen: finished trials, in the order in which they finished. taken: keys of finished and of running trials.
        """


Pick = Callable[[Sequence[Seen], StrategyOptions], Seen]


@dataclass(frozen=True)
class Strategy:
    """How candidates are drawn (`ask`), which one wins (`pick`), both in a sentence (`rule`), and who published it."""

    name: str
    rule: str
    source: str
    ask: Ask
    pick: Pick


strategies: Registry[Strategy] = Registry("search strategy", "delayer.nas.strategies")


def most_accurate(seen: Sequence[Seen], options: StrategyOptions | None = None) -> Seen:
    """The best by the cheap signal; of equals the smaller, then the earlier."""
    return max(seen, key=lambda one: (not one.dead, one.accuracy, -one.params))


def strategy(*, rule: str, source: str, pick: Pick = most_accurate) -> Callable[[Ask], Ask]:
    """Register a function under its own name as a strategy."""

    def add(ask: Ask) -> Ask:
        strategies.register(ask.__name__, ask)(Strategy(ask.__name__, rule, source, ask, pick))
        return ask

    return add


def draw_new(space: Space, taken: set[str], rng: Random, tries: int = 50) -> str | None:
    """A live candidate that computes something new, drawn uniformly from all candidates; None when none is left."""

    def new(one: str) -> bool:
        return space.canonical(one) not in taken and not space.is_dead(one)

    found = next((one for one in (space.draw(rng) for _ in range(tries)) if new(one)), None)
    if found is None and (left := [one for one in space.every() if new(one)]):
        return rng.choice(left)
    return found
