"""Stage: cut as planned, and save."""

from torch import nn

from delayer.plan import Plan, apply, read_plan
from delayer.stages.work import Work, is_finished, mark_finished, stage_key
from delayer.store import load, save


def cut_stage(work: Work, plan: Plan | None = None) -> nn.Module:
    """model/: the cut network, saved so that `load` opens it."""
    plan = plan or read_plan(work.study.path("plan.json"))
    key = stage_key(work, "cut", plan.model_dump(mode="json"), work.task_options)
    folder = work.study.path("model")
    if (folder / "delayer.json").exists() and is_finished(work, "cut", key):
        return load(str(folder)).to(work.device)
    with work.reporter.step("Cutting") as tick:
        small = apply(work.chain, plan, data=work.task.batches("fit"), progress=tick)
    save(small, plan, work.chain, folder, example=work.example)
    mark_finished(work, "cut", key)
    return small
