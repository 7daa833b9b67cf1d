"""Closed-form repairs of a plan, each measured on validation data; the plan stays as it was where none helps."""

from functools import partial
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from delayer.cutting import Plan, fit_edits_
from delayer.edits import Edit
from delayer.edits.renew_norms import RenewNorms
from delayer.errors import ModelError
from delayer.observing.processes import from_first
from delayer.progress import Tick
from delayer.search.judging import Cut, Failure, Verdict, attempt, damage_of, ensure_judged
from delayer.search.options import PlanOptions
from delayer.search.repair import forms_of, resolved
from delayer.search.subject import Subject, first_changed
from delayer.search.ties import best_of
from delayer.study import Grade
from delayer.tasks import evaluate, grade_of, predictions
from delayer.tasks.splits import shortened

QUICK_RIDGE, QUICK_RIDGE_OF_TEXT = 1e-2, 0.3
"""Held-out ridges of the real repairs lie near them, and choosing one costs more than it gives during a search."""
QUICK_TOKENS = 4096
"""Of text that a quick repair is fitted on."""


def settled(subject: Subject, options: PlanOptions) -> PlanOptions:
    """The options with the repair that this kind of network profits from, where that was left open.

    A decoder's blocks that stay take over most of what the others did, at no cost in size; where none of those that a cut reaches
    can be solved anew (experts, say), it is judged and left as it is. Published methods stay as published.
    """
    if options.repair != "auto":
        return options
    writes = subject.task.kind == "causal-lm" and options.method == "ours" and bool(subject.resolvable)
    return options.model_copy(update={"repair": "best" if writes else "none"})


def graded_after_repair(subject: Subject, cut: Cut, options: PlanOptions) -> Grade | None:
    """The grade of a cut after a quick closed-form repair on few samples; None where nothing can be solved anew.

    The network is copied, since a repair changes weights of blocks that stay.
    """
    fit = shortened(subject.task.batches("fit"), options.repair_samples, QUICK_TOKENS)
    ridge = QUICK_RIDGE_OF_TEXT if subject.task.kind == "causal-lm" else QUICK_RIDGE
    try:
        edits = resolved(subject.chain, cut, fit[0], can=subject.resolvable, ridge=ridge)
    except ModelError:  # nothing can be solved anew; the cut is judged as it is, and whatever else is wrong shows then
        return None
    small = subject.chain.copy()
    fit_edits_(
        small,
        edits,
        fit,
        original=subject.chain,
        seed=subject.seed,
        tried=bool(subject.replay.sound),
        totals=subject.totals,
        precision="rough",
    )
    start = first_changed(edits)
    found = predictions(
        small.model,
        subject.validation(options.samples),
        device=subject.device,
        around=lambda batch: subject.replay.beginning(batch, start, small),
    )
    return grade_of(found, subject.reference, seed=subject.seed)


def repaired(subject: Subject, plan: Plan, options: PlanOptions) -> Plan:
    """The plan with the repair that moves the network's output on validation data least, or without any.

    "resolve" tries the blocks before the cuts alone, all blocks that a cut reaches, those with hidden units of the removed ones,
    and each of their layers twice; "norms" counts batch norms anew; "best" tries everything. Nothing is chosen on test data.
    Raises ModelError where no block has the form that solving needs, and nothing else was asked for.
    """
    if options.repair == "none":
        return plan
    batch = subject.task.batches("fit")[0]
    ways: dict[str, tuple[Edit, ...]] = {"no repair": plan.edits}
    if options.repair in ("resolve", "best"):
        try:
            kinds: dict[str, dict[str, Any]] = {"all blocks, units of removed ones": {"units": True}}
            if subject.task.kind != "causal-lm":  # there that is the best by far, and each way takes minutes
                kinds = {"seams": {"seams_only": True}, "all blocks": {}, **kinds}
            if any(form.tail == "relu" for form in forms_of(subject.chain, batch)):
                kinds["every layer, twice"] = {"layers": "all", "sweeps": 2}
            for name, more in kinds.items():
                edits = resolved(subject.chain, plan.edits, batch, can=subject.resolvable, **more)
                if "units" in more and not any(edit.edit == "adopt_units" for edit in edits):
                    name = "all blocks"  # which is what is left of it
                if edits not in ways.values():
                    ways[name] = edits
        except ModelError:
            if options.repair == "resolve":
                raise
    normed = any(isinstance(module, _BatchNorm) for module in subject.model.modules())
    if options.repair == "norms" or (options.repair == "best" and normed):
        ways["batch norms"] = (*plan.edits, RenewNorms())
    plans = {name: plan.model_copy(update={"edits": edits}) for name, edits in ways.items()}
    found: dict[str, Verdict] = {}
    for name in ways:
        with subject.reporter.step(f"Repair: {name}") as tick:
            found[name] = attempt(partial(grade_of_plan, subject, tick), plans[name])
        subject.keep(plans[min(found, key=lambda other: damage_of(found[other]))])
        verdict = found[name]
        if isinstance(verdict, Failure):
            subject.notes.append(f"Repair {name!r} could not be judged and was left out: {verdict.reason}.")
            subject.reporter.line(subject.notes[-1])
            continue
        subject.reporter.line(
            f"{name}: {verdict.name} {verdict.value:.2f}{verdict.unit}, divergence {damage_of(verdict):.4g} on validation"
        )
    ensure_judged((ways[name], each) for name, each in found.items())
    best = from_first(best_of(found, lambda name: damage_of(found[name]), lambda name: len(ways[name])))
    if len(ways) == 1:
        subject.notes.append("None of the blocks that the cut reaches can be solved anew, so none was.")
    elif best == "no repair":
        subject.notes.append("No closed-form repair brought the cut nearer to the original on validation data; none was made.")
    return plans[best]


def grade_of_plan(subject: Subject, tick: Tick, plan: Plan) -> Grade:
    """The validation grade of the network that a plan cuts."""
    small = subject.applied(plan, tick)
    return evaluate(small, subject.task, "validation", reference=subject.reference, device=subject.device, seed=subject.seed)
