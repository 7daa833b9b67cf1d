"""Stage: a short fine-tune of the cut network with the original as teacher."""

from torch import nn

from delayer.errors import BudgetError
from delayer.plan import Plan
from delayer.stages.work import Work, is_finished, mark_finished, stage_key
from delayer.store import load, save
from delayer.study import write_atomically
from delayer.tune import TuneOptions, TuneReport, tune_
from delayer.tune.neighbourhood import counterparts, neighbourhood


def tune_stage(work: Work, small: nn.Module, plan: Plan, options: TuneOptions = TuneOptions(), *,
               only: str = "everything") -> tuple[nn.Module, TuneReport]:
    """model/ again, fine-tuned, and tune.json. A killed run goes on from its last checkpoint.

    only: "everything", or "neighbourhood" for the maps and the blocks next to each cut.
    """
    if only not in ("everything", "neighbourhood"):
        raise BudgetError(f"Fine-tuning {only!r} is not known. Use everything or neighbourhood.")
    key = stage_key(work, "tune", plan.model_dump(mode="json"), options, only, work.task_options)
    path, folder = work.study.path("tune.json"), work.study.path("model")
    if path.exists() and is_finished(work, "tune", key):
        return load(str(folder)).to(work.device), TuneReport.model_validate_json(path.read_text())
    checkpoint = work.study.path(".tune.safetensors")
    with work.reporter.step("Fine-tuning") as tick:
        report = tune_(small, work.task, work.model, options, checkpoint=checkpoint, progress=tick, device=work.device,
                       counterparts=counterparts(work.chain, plan) if options.hidden_weight else None,
                       only=neighbourhood(work.chain, plan) if only == "neighbourhood" else None, seed=work.seed)
    save(small, plan, work.chain, folder, example=work.example)
    write_atomically(path, report.model_dump_json(indent=1))
    mark_finished(work, "tune", key)
    checkpoint.unlink(missing_ok=True)
    work.reporter.line(report.note)
    return small, report
