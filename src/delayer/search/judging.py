"""Cuts judged by the real network: a grade, or why there is none; how bad it is, and what wins among equals."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from delayer.edits import Edit
from delayer.errors import ModelError, ProcessError
from delayer.network.chain import Chain
from delayer.observing.processes import from_first
from delayer.search.ties import Order
from delayer.study import Grade

Cut = tuple[Edit, ...]


@dataclass(frozen=True)
class Failure:
    """A cut that could not be judged, and why. It counts as infinitely bad, and ends no search."""

    reason: str


Verdict = Grade | Failure
GradeOf = Callable[[Cut], Grade]
MeasuredCut = tuple[Cut, float, Verdict]
"""A cut, the damage that was predicted for it, and what the real network said."""


@dataclass
class Measuring:
    """Grades cuts with the real network and remembers all of them, so that nothing is measured twice.

    grade: puts the edits into the network, evaluates on validation data, takes them out again. Whatever it raises makes
    the cut a `Failure`: a network whose forward breaks without a block, a map that cannot be solved, NaN, memory that
    this one cut would take. KeyboardInterrupt ends the search.
    on_measured: hears of each new grade, and of no failure: a search that goes on tries what failed again.
    wanted: whether a cut is to be judged though its grade is known, since somebody waits for its answers.
    """

    grade: GradeOf
    known: dict[str, Verdict] = field(default_factory=dict)
    on_measured: Callable[[str, Grade], None] | None = None
    failed: dict[Cut, Failure] = field(default_factory=dict)
    wanted: Callable[[Cut], bool] | None = None

    def __call__(self, cut: Cut) -> Verdict:
        """The grade of a cut, or why it has none; measured once."""
        key = key_of(cut)
        new = key not in self.known
        if new or (self.wanted is not None and self.wanted(cut)):
            found = self.known[key] = from_first(attempt(self.grade, cut))
            if isinstance(found, Failure):
                self.failed[cut] = found
            elif self.on_measured and new:
                self.on_measured(key, found)
        return self.known[key]


def attempt(grade: Callable[[Any], Grade], cut: Any) -> Verdict:
    """The grade of a cut or plan, or why there is none."""
    try:
        found = grade(cut)
    except ProcessError:  # of all cuts, not of this one
        raise
    except Exception as error:
        return Failure(reason_of(error))
    if not math.isfinite(damage_of(found)):
        return Failure(f"its distance from the original is {damage_of(found)}")
    return found


def reason_of(error: Exception) -> str:
    """The first line of what went wrong, for people."""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:300].rstrip(": ")


def ensure_judged(judged: Iterable[tuple[Cut, Verdict]]) -> None:
    """Raises ModelError, with the first reason, where cuts were tried and every one of them failed."""
    judged = list(judged)
    failed = [(cut, found) for cut, found in judged if isinstance(found, Failure)]
    if failed and len(failed) == len(judged):
        cut, found = failed[0]
        raise ModelError(
            f"None of the {len(judged)} cuts that were tried could be judged; the first ({', '.join(e.label for e in cut)}) "
            f"failed with {found.reason}. Leave these blocks as they are, or name others with --blocks or --span."
        )


def takes(chain: Chain, cut: Cut, unit: str = "blocks", missed: Callable[[Cut], float] | None = None) -> Order:
    """Orders cuts that are equally good, the least first.

    By what leaves the network (in blocks for a budget in blocks, else in parameters), what is put in its place, how many
    edits, what they miss (where `missed` tells), where they begin.
    """
    gone = [block for edit in cut for span in edit.removed for block in range(span.start, span.stop)]
    away = sum(map(chain.weight if unit == "blocks" else partial(_params, chain), gone))
    return Order(
        (away, sum(edit.num_params(chain) for edit in cut), len(cut)),
        (missed(cut) if missed else 0.0, sorted(edit.spans for edit in cut)),
    )


def _params(chain: Chain, block: int) -> int:
    return sum(parameter.numel() for parameter in chain.module(block).parameters())


def key_of(cut: Iterable[Edit]) -> str:
    """A cut's name in the memory of measurements."""
    return " ".join(edit.model_dump_json() for edit in sorted(cut, key=lambda edit: edit.spans))


def damage_of(grade: Verdict) -> float:
    """What the search makes small: the distance from the original's output (`Grade.distance`); infinity for what failed."""
    if isinstance(grade, Failure):
        return math.inf
    return grade.distance if grade.distance is not None else 100.0 - (grade.agreement or 0.0)


def drop_of(original: Grade, cut: Verdict) -> float:
    """How far a grade fell: points of percent, or percent of the original's for one without a bound (perplexity)."""
    if isinstance(cut, Failure):
        return math.inf
    if original.higher_is_better:
        return original.value - cut.value
    if original.unit == "%":  # a relative error, which is 0 for the original itself
        return cut.value - original.value
    return 100 * (cut.value / original.value - 1)
