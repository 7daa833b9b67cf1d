"""Stage: a short fine-tune of the network in model/ with the original as teacher."""

from pathlib import Path

from torch import nn

from delayer.cutting import Plan, read_plan
from delayer.errors import BudgetError, StudyError
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.cut import cut_stage
from delayer.stages.standing import Lineage, cut_lineage, find, put_, saved_in, standing
from delayer.stages.work import Work
from delayer.store import Made
from delayer.study import read_record, write_atomically
from delayer.study.marks import MODEL
from delayer.tuning import TuneOptions, TuneReport, tune_
from delayer.tuning.asked import check_in_memory
from delayer.tuning.neighbourhood import counterparts, neighbourhood


def tune_stage(
    work: Work, options: TuneOptions = TuneOptions(), *, only: str = "everything", plan: Plan | None = None
) -> tuple[nn.Module, Plan, TuneReport]:
    """model/ again, fine-tuned, and tune.json; gives the network, its plan and what happened.

    It begins with the network as it was cut or shrunk, also where a fine-tuned one stands in model/. A killed run goes on
    from its last checkpoint.
    only: "everything", or "neighbourhood" for the maps and the blocks next to each cut.
    plan: what the network is to be cut by; by default what stands in model/ is taken.
    Raises StudyError where the network before fine-tuning is gone and cannot be made again.
    """
    check_tuning(options, only)
    check_in_memory(work.model)
    folder, begin = _beginning(work, plan)
    plan = read_plan(folder / "plan.json")
    key = stage_key(
        work,
        "tune",
        [made.key for made in begin],
        plan.model_dump(mode="json"),
        options,
        only,
        work.task_options,
        *saved_in(work),
    )
    path, lineage = work.study.path("tune.json"), (*begin, Made(stage="tune", key=key))
    if is_finished(work, "tune", key):
        _clear_checkpoints_(work)
        return work.open(work.study.path("model")), plan, read_record(path, TuneReport)
    near = neighbourhood(work.chain, plan) if only == "neighbourhood" else None
    if near is not None and not near:
        raise BudgetError(
            "No block lies beside what this network was cut or shrunk by, so that fine-tuning its neighbourhood "
            "would train nothing. Leave --only out."
        )
    small, checkpoint = work.open(folder), work.study.path(f".tune-{key}.safetensors")
    with work.reporter.step("Fine-tuning") as tick:
        report = tune_(
            small,
            work.task,
            work.model,
            options,
            checkpoint=checkpoint,
            progress=tick,
            device=work.device,
            counterparts=counterparts(work.chain, plan) if options.hidden_weight else None,
            only=near,
            seed=work.seed,
        )
    put_(work, small, plan, lineage)
    write_atomically(path, report.model_dump_json(indent=1))
    finish(work, "tune", key, ["tune.json", MODEL])
    _clear_checkpoints_(work)
    work.reporter.line(report.note)
    return small, plan, report


def check_tuning(options: TuneOptions, only: str = "everything") -> None:
    """Raises BudgetError for parts of a network that fine-tuning does not know, and for milestones that never come."""
    if only not in ("everything", "neighbourhood"):
        raise BudgetError(f"Fine-tuning {only!r} is not known. Use everything or neighbourhood.")
    if away := [milestone for milestone in options.milestones if not 1 <= milestone < options.epochs]:
        raise BudgetError(
            f"The rate is to be divided by ten after epoch {away[0]}, and there are {options.epochs}. "
            f"Give --milestones between 1 and {options.epochs - 1}, or more --epochs."
        )


def _clear_checkpoints_(work: Work) -> None:
    for old in work.study.folder.glob(".tune-*.safetensors"):
        old.unlink()


def _beginning(work: Work, plan: Plan | None) -> tuple[Path, Lineage]:
    """The folder of the network that fine-tuning begins with, and how that came about."""
    if plan is None:
        _, plan, lineage = standing(work)
        begin = tuple(made for made in lineage if made.stage != "tune")
    else:
        begin = cut_lineage(work, plan)
    if not (folder := find(work, begin)):
        if not begin or begin[0].stage != "cut":
            raise StudyError(
                f"The network as it was before it was fine-tuned is no longer in {work.study.folder}. Make it again: "
                "`delayer shrink` with the options of then, or `delayer cut`."
            )
        cut_stage(work, plan)
        folder = work.study.path("model")
    return folder, begin
