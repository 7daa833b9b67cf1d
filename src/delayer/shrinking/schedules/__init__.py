"""Schedules: which activations a round removes. One published method, baseline or own idea a file.

A new file that calls `schedule` has its place on the command line and in comparisons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from delayer.edits import Edit
from delayer.registry import Registry
from delayer.study import Record

if TYPE_CHECKING:
    from delayer.shrinking.look import Look

Chosen = tuple[Sequence[Edit], str]
"""The edits of a round, and what was read, in a few words; a round without an edit that pruned nothing either
ends the shrinking."""


@dataclass(frozen=True)
class Schedule:
    """A schedule's facts and its choice.

    choose: from a look and the most activations that may go in this round. teacher: whether rounds learn from the
    original's answers. retries: whether a round that was rolled back is tried again with half as many activations. a_round:
    most activations that a round removes where nobody says. warm: whether the optimiser goes on in
    each round with what it remembers of the last. options: a record of its options, which become options of the command and
    are read by `look.own`.
    """

    name: str
    source: str
    choose: Callable[["Look", int], Chosen]
    teacher: bool = False
    retries: bool = False
    a_round: int = 1
    warm: bool = False
    options: type[Record] | None = None


schedules: Registry[Schedule] = Registry("schedule", "delayer.shrinking.schedules")


def schedule(
    name: str,
    *,
    source: str,
    teacher: bool = False,
    retries: bool = False,
    a_round: int = 1,
    warm: bool = False,
    options: type[Record] | None = None,
) -> Callable[[Callable[["Look", int], Chosen]], Callable[["Look", int], Chosen]]:
    """Register a function as a schedule."""

    def add(choose: Callable[["Look", int], Chosen]) -> Callable[["Look", int], Chosen]:
        schedules.register(name, choose)(Schedule(name, source, choose, teacher, retries, a_round, warm, options))
        return choose

    return add
