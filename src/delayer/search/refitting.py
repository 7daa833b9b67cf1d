"""How the maps of a cut are fitted: each on the original's stream, or along the network cut so far."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from delayer.cutting import Plan
from delayer.edits import Edit
from delayer.observing.processes import from_first
from delayer.search.judging import Cut, Verdict, attempt, damage_of, ensure_judged
from delayer.search.options import PlanOptions
from delayer.search.repairing import grade_of_plan
from delayer.search.subject import Subject
from delayer.search.ties import best_of


def refitted(subject: Subject, cut: Cut, options: PlanOptions) -> Plan:
    """The plan with maps fitted as asked; "best" measures both ways on validation data where they can differ.

    Published methods fit on the original's stream.
    """
    plans = {way: plan_of(subject, cut, refit=way) for way in ("independent", "sequential")}
    if options.refit != "best":
        return plans[options.refit]
    if options.method != "ours" or len(cut) < 2 or not any(edit.needs_stats for edit in cut):
        return plans["independent"]
    found: dict[str, Verdict] = {}
    for way, one in plans.items():
        with subject.reporter.step(f"Fitting maps, {way}") as tick:
            found[way] = attempt(partial(grade_of_plan, subject, tick), one)
        subject.keep(plans[min(found, key=lambda other: damage_of(found[other]))])
    ensure_judged((plans[way].edits, verdict) for way, verdict in found.items())
    return plans[from_first(best_of(found, lambda way: damage_of(found[way])))]


def plan_of(subject: Subject, cut: Sequence[Edit], *, refit: Literal["independent", "sequential"]) -> Plan:
    """The plan that a cut is written down as."""
    return Plan(
        model=subject.name,
        model_hash=subject.model_hash,
        data_hash=subject.task.hash,
        num_blocks=subject.chain.num_blocks,
        edits=tuple(sorted(cut, key=lambda e: e.spans)),
        refit=refit,
        rows="each",
        seed=subject.seed,
    )
