"""Stage: cut as planned, and save."""

from torch import nn

from delayer.cutting import Plan, read_plan
from delayer.stages.artefacts import finish
from delayer.stages.standing import bring_back_, cut_, cut_lineage, find
from delayer.stages.work import Work
from delayer.study.marks import MODEL


def cut_stage(work: Work, plan: Plan | None = None) -> nn.Module:
    """model/: the cut network, saved so that `load` opens it; one that was fine-tuned since gives way to it.

    plan: by default plan.json. Raises PlanError when there is none, or when it is for another network.
    """
    plan = plan or read_plan(work.study.path("plan.json"))
    lineage = cut_lineage(work, plan)
    if folder := find(work, lineage):
        work.say_finished("cut")
        small, _ = bring_back_(work, folder)
    else:
        plan.check(work.chain)
        small = cut_(work, plan)
    finish(work, "cut", lineage[0].key, [MODEL], ["plan.json"])
    return small
