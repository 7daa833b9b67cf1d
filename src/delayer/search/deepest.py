"""As many blocks as an allowed drop of the grade lets go, one more at each depth."""

import math
from collections.abc import Callable, Mapping
from functools import partial

from delayer.errors import BudgetError
from delayer.network.chain import Chain
from delayer.search.additive import Changes
from delayer.search.budget import Budget
from delayer.search.judging import Cut, MeasuredCut, Measuring, Verdict, damage_of, drop_of, takes
from delayer.search.planner import KEEP, nominate_and_refine
from delayer.search.predicting import measure_singles, residual_in
from delayer.search.subject import Subject
from delayer.search.ties import best_of
from delayer.study import Grade, Scan


def deepest(
    chain: Chain,
    scan: Scan,
    measure: Measuring,
    *,
    original: Grade,
    max_drop: float,
    effort: int = 12,
    keep: int = KEEP,
    singles: Mapping[tuple[int, str], float] | None = None,
    changes: Changes | None = None,
    on_depth: Callable[[int, Verdict, bool], None] | None = None,
) -> tuple[Cut, list[MeasuredCut]]:
    """The cut of most blocks whose validation grade falls by at most `max_drop`, and all cuts measured on the way.

    max_drop: points of the grade (percent of accuracy, agreement, cosine, R² or relative error); for perplexity, percent of the
    original's.
    Blocks are added one by one, each depth starting from the last; two depths in a row that fall too far end it.
    Raises BudgetError when not even one block can go.
    """
    if singles is None:
        singles = measure_singles(chain, scan, measure, ("affine",))
    most = sum(chain.weight(b) for segment in chain.segments for b in range(segment.start, segment.stop))
    seen: list[MeasuredCut] = []
    best: Cut = ()
    failures = 0
    for depth in range(1, most + 1):
        try:
            cut, measured = nominate_and_refine(
                chain, scan, Budget("blocks", depth), measure, {}, effort, keep, None, singles, changes
            )
        except BudgetError:  # no deeper cut is left, since some cannot be judged
            if depth == 1:
                raise
            break
        seen += measured
        allowed = [c for c, _, g in measured if drop_of(original, g) <= max_drop]
        if allowed:
            best = (
                cut
                if cut in allowed
                else best_of(allowed, lambda c: damage_of(measure(c)), partial(takes, chain, missed=residual_in(scan)))
            )
        failures = 0 if allowed else failures + 1
        if on_depth:
            on_depth(depth, measure(best if allowed else cut), bool(allowed))
        if failures == 2:
            break
    if not best:
        least = min((drop_of(original, g) for _, _, g in seen), default=math.inf)
        raise BudgetError(
            f"No block can go within --max-drop {max_drop:g}: the best cut of one block costs {least:.2f}. "
            f"Allow at least {least:.2f}, or give `tune` a chance after --remove blocks=1."
        )
    return best, seen


def say_depth(subject: Subject, original: Grade, depth: int, grade: Verdict, allowed: bool) -> None:
    """Report how far validation falls at a depth."""
    subject.reporter.line(f"{depth} blocks: validation falls by {drop_of(original, grade):.2f}{'' if allowed else ', too far'}")
