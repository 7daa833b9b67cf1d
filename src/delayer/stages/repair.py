"""Stage part: closed-form repairs of a plan, each measured on validation data; the plan stays as it was where none helps."""

from copy import deepcopy

from torch.nn.modules.batchnorm import _BatchNorm

from delayer.chain import Chain
from delayer.edits import Edit
from delayer.edits.renew_norms import RenewNorms
from delayer.errors import BudgetError, ModelError
from delayer.plan import Plan, apply, fit_edits_
from delayer.planner import Cut, damage_of
from delayer.processes import from_first
from delayer.repair import resolved, runs_of
from delayer.stages.options import PlanOptions
from delayer.stages.work import Work
from delayer.study import Grade
from delayer.tasks import evaluate

QUICK_RIDGE = 1e-2
"""Held-out ridges of the real repairs lie near it, and choosing one costs more than it gives during a search."""
REPAIRS = ("none", "resolve", "norms", "best")


def check_repair(options: PlanOptions) -> None:
    """Raises BudgetError for a repair that does not exist."""
    if options.repair not in REPAIRS:
        raise BudgetError(f"There is no repair {options.repair!r}. Use {', '.join(REPAIRS[:-1])} or {REPAIRS[-1]}.")


def graded_after_repair(work: Work, cut: Cut, options: PlanOptions) -> Grade | None:
    """The grade of a cut after a quick closed-form repair on few samples; None where nothing can be solved anew.

    The network is copied, since a repair changes weights of blocks that stay.
    """
    fit = work.task.batches("fit").first(options.repair_samples)
    try:
        edits = resolved(work.chain, cut, fit[0], ridge=QUICK_RIDGE)
    except ModelError:
        return None
    small = Chain(deepcopy(work.model), work.chain.family, work.chain.blocks)
    fit_edits_(small, edits, fit, original=work.chain, seed=work.seed)
    return evaluate(small.model, work.task, "validation", reference=work.reference, device=work.device,
                    limit=options.samples, seed=work.seed)


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
            if any(run.tail == "relu" for run in runs_of(work.chain, batch)):
                kinds["every layer, twice"] = {"layers": "all", "sweeps": 2}
            for name, more in kinds.items():
                edits = resolved(work.chain, plan.edits, batch, **more)
                if edits not in ways.values():
                    ways[name] = edits
        except ModelError:
            if options.repair == "resolve":
                raise
    normed = any(isinstance(module, _BatchNorm) for module in work.model.modules())
    if options.repair == "norms" or options.repair == "best" and normed:
        ways["batch norms"] = (*plan.edits, RenewNorms())
    found = {}
    for name, edits in ways.items():
        with work.reporter.step(f"Repair: {name}") as tick:
            small = apply(work.chain, plan.model_copy(update={"edits": edits}), data=work.task.batches("fit"), progress=tick)
        found[name] = evaluate(small, work.task, "validation", reference=work.reference, device=work.device, seed=work.seed)
        work.reporter.line(f"{name}: {found[name].name} {found[name].value:.2f}{found[name].unit}, "
                           f"divergence {damage_of(found[name]):.4g} on validation")
    best = from_first(min(found, key=lambda name: damage_of(found[name])))
    if best == "no repair":
        work.notes.append("No closed-form repair brought the cut nearer to the original on validation data; none was made.")
    return plan.model_copy(update={"edits": ways[best]})
