"""Cuts within a budget; one in latency is measured afterwards, and tightened until it holds."""

from contextlib import suppress
from functools import partial
from typing import Any

from delayer.cutting import apply
from delayer.errors import BudgetError, ModelError
from delayer.fitting.evidence import Evidence
from delayer.measure import compare_latency, num_params
from delayer.measure.profile import profile_blocks, saved_ms
from delayer.network.calling import example_of
from delayer.observing.stats import Moments
from delayer.search.additive import Changes
from delayer.search.budget import Budget
from delayer.search.judging import Cut, MeasuredCut, Measuring
from delayer.search.options import PlanOptions
from delayer.search.planner import plan_spans
from delayer.search.predicting import operator_in
from delayer.search.preferring import opens_in, prefers
from delayer.search.refitting import plan_of
from delayer.search.subject import Subject
from delayer.study import Scan


def within(
    subject: Subject,
    table: Scan,
    budget: Budget,
    measure: Measuring,
    options: PlanOptions,
    fit: Moments | None,
    changes: Changes,
    **how: Any,
) -> tuple[Cut, list[MeasuredCut]]:
    """The best cut found within a budget, and all cuts that were measured.

    A latency budget is measured afterwards and tightened until it holds, four times at most; a warning says where it does not.
    how: further arguments of `plan_spans`.
    """
    how = {"effort": options.effort, "changes": changes} | how
    totals = {"params": float(num_params(subject.model)), "macs": float(subject.macs or 0)}
    if budget.unit != "latency":
        cut, measured = plan_spans(subject.chain, table, budget, measure, totals=totals, **how)
        return cut, measured + _drops_besides(subject, table, budget, measure, options, totals, cut)
    one = example_of(subject.example, 1)
    with subject.reporter.step("Timing each block"):
        kinds = {one for one in map(operator_in, table.spans) if not one.removes}
        profile = profile_blocks(subject.chain, one, operators=sorted(kinds, key=lambda operator: operator.title))
    totals["latency"] = profile.total_ms
    asked, share = budget, 0.0
    cut: Cut = ()
    measured: list[Any] = []
    for _ in range(4):
        cut, measured = plan_spans(
            subject.chain, table, asked, measure, totals=totals, milliseconds=partial(saved_ms, profile), **how
        )
        small = apply(subject.chain, plan_of(subject, cut, refit="independent"), fit or Evidence())
        [found] = compare_latency(subject.model, small, one, (1,), seconds=2.0)
        share = 1 - 1 / found.speedup
        subject.reporter.line(f"Measured latency removed: {100 * share:.1f} % of {100 * budget.amount:.1f} % asked")
        if share >= budget.amount:
            return cut, measured
        asked = Budget("latency", min(0.98, asked.amount * min(1.5, budget.amount / max(share, 0.01))))
    subject.warnings.append(f"{100 * budget.amount:.0f} % less latency was asked for; the plan measured {100 * share:.1f} %.")
    return cut, measured


def _drops_besides(
    subject: Subject, table: Scan, budget: Budget, measure: Measuring, options: PlanOptions, totals: dict[str, float], best: Cut
) -> list[MeasuredCut]:
    """Sets of blocks that simply go, measured besides, where the best cut leaves something that its library does not open."""
    drops = table.model_copy(update={"spans": tuple(row for row in table.spans if operator_in(row).removes)})
    if not prefers(options) or drops.spans in ((), table.spans) or opens_in(subject, best)[0]:
        return []
    with suppress(BudgetError, ModelError):
        return plan_spans(subject.chain, drops, budget, measure, totals=totals, effort=options.effort // 3)[1]
    return []
