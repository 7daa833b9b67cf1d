"""Stage part: closed-form repairs of a plan, each measured on validation data; the plan stays as it was where none helps."""

from copy import deepcopy
from functools import partial

from torch.nn.modules.batchnorm import _BatchNorm

from delayer.cutting import Plan, apply, fit_edits_
from delayer.edits import Edit
from delayer.edits.renew_norms import RenewNorms
from delayer.errors import ModelError
from delayer.network.chain import Chain
from delayer.observing.processes import from_first
from delayer.progress import Tick
from delayer.search.judging import Cut, Failure, Verdict, attempt, damage_of, ensure_judged
from delayer.search.repair import forms_of, resolved
from delayer.search.ties import best_of
from delayer.stages.options import PlanOptions
from delayer.stages.work import Work
from delayer.study import Grade
from delayer.tasks import evaluate

QUICK_RIDGE = 1e-2
"""Held-out ridges of the real repairs lie near it, and choosing one costs more than it gives during a search."""


def graded_after_repair(work: Work, cut: Cut, options: PlanOptions) -> Grade | None:
    """The grade of a cut after a quick closed-form repair on few samples; None where nothing can be solved anew.

    The network is copied, since a repair changes weights of blocks that stay.
    """
    fit = work.task.batches("fit").first(options.repair_samples)
    try:
        edits = resolved(work.chain, cut, fit[0], ridge=QUICK_RIDGE)
    except ModelError:  # nothing can be solved anew; the cut is judged as it is, and whatever else is wrong shows then
        return None
    small = Chain(deepcopy(work.model), work.chain.family, work.chain.blocks)
    fit_edits_(small, edits, fit, original=work.chain, seed=work.seed)
    return evaluate(
        small.model, work.task, "validation", reference=work.reference, device=work.device, limit=options.samples, seed=work.seed
    )


def repaired(work: Work, plan: Plan, options: PlanOptions) -> Plan:
    """The plan with the repair that moves the network's output on validation data least, or without any.

    "resolve" tries the blocks before the cuts alone, all blocks that a cut reaches, and each of their layers twice; "norms"
    counts batch norms anew; "best" tries everything. Nothing is chosen on test data.
    Raises ModelError where no block has the form that solving needs, and nothing else was asked for.
    """
    if options.repair == "none":
        return plan
    batch = work.task.batches("fit")[0]
    ways: dict[str, tuple[Edit, ...]] = {"no repair": plan.edits}
    if options.repair in ("resolve", "best"):
        try:
            kinds = {"seams": {"seams_only": True}, "all blocks": {}}
            if any(form.tail == "relu" for form in forms_of(work.chain, batch)):
                kinds["every layer, twice"] = {"layers": "all", "sweeps": 2}
            for name, more in kinds.items():
                edits = resolved(work.chain, plan.edits, batch, **more)
                if edits not in ways.values():
                    ways[name] = edits
        except ModelError:
            if options.repair == "resolve":
                raise
    normed = any(isinstance(module, _BatchNorm) for module in work.model.modules())
    if options.repair == "norms" or (options.repair == "best" and normed):
        ways["batch norms"] = (*plan.edits, RenewNorms())
    found: dict[str, Verdict] = {}
    for name, edits in ways.items():
        with work.reporter.step(f"Repair: {name}") as tick:
            found[name] = attempt(partial(_grade_of_plan, work, tick), plan.model_copy(update={"edits": edits}))
        said = found[name]
        if isinstance(said, Failure):
            work.notes.append(f"Repair {name!r} could not be judged and was left out: {said.reason}.")
            work.reporter.line(work.notes[-1])
            continue
        work.reporter.line(f"{name}: {said.name} {said.value:.2f}{said.unit}, divergence {damage_of(said):.4g} on validation")
    ensure_judged((ways[name], verdict) for name, verdict in found.items())
    best = from_first(best_of(found, lambda name: damage_of(found[name]), lambda name: len(ways[name])))
    if best == "no repair":
        work.notes.append("No closed-form repair brought the cut nearer to the original on validation data; none was made.")
    return plan.model_copy(update={"edits": ways[best]})


def _grade_of_plan(work: Work, tick: Tick, plan: Plan) -> Grade:
    small = apply(work.chain, plan, data=work.task.batches("fit"), progress=tick)
    return evaluate(small, work.task, "validation", reference=work.reference, device=work.device, seed=work.seed)
