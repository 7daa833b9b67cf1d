"""The network that stands in a study's model/: whose it is, how it came about, and what it was before fine-tuning."""

import os
import shutil
from pathlib import Path

from torch import nn

from delayer.cutting import Plan, read_plan
from delayer.errors import ModelError, StudyError
from delayer.stages.artefacts import finish, stage_key
from delayer.stages.work import Work
from delayer.store import Made, read_artefact, recover_, save
from delayer.study.marks import MODEL, file_hash, read_marks

Lineage = tuple[Made, ...]


def lineage_of(folder: Path) -> Lineage:
    """How a saved network came about, first step first; () where there is none. Raises ModelError for a damaged one."""
    recover_(folder)
    return read_artefact(folder).lineage if (folder / "delayer.json").exists() else ()


def cut_lineage(work: Work, plan: Plan) -> Lineage:
    """How the network that a plan cuts comes about."""
    return (Made(stage="cut", key=stage_key(work, "cut", plan.model_dump(mode="json"), work.task_options, *saved_in(work))),)


def saved_in(work: Work) -> list[str]:
    """What a stage's key says of how the network is saved: nothing where that is as ever, so that older keys hold."""
    return [] if work.dtype == "keep" else [work.dtype]


def cut_(work: Work, plan: Plan) -> nn.Module:
    """Cut as planned into model/."""
    with work.reporter.step("Cutting") as tick:
        small = work.applied(plan, tick)
    work.keep(None)
    put_(work, small, plan, cut_lineage(work, plan))
    return small


def put_(work: Work, small: nn.Module, plan: Plan, lineage: Lineage) -> None:
    """Save a network into model/. Before it is fine-tuned, what stands there is kept as `.untuned`."""
    folder, before = work.study.path("model"), work.study.path(".untuned")
    if len(lineage) > 1 and _is(folder, lineage[:-1]):
        _copy_(folder, before)
    saved = save(small, plan, work.chain, folder, example=work.example, lineage=lineage, dtype=work.dtype)
    for note in saved.notes:
        work.reporter.line(note)
    if len(lineage) == 1:
        _clear_(before)


def _copy_(folder: Path, to: Path) -> None:
    """A second name for each file of a saved network, which nobody writes into; a copy where the disk has no such thing."""
    _clear_(to)
    shutil.copytree(folder, temporary := _new(to), copy_function=_linked)
    temporary.rename(to)


def _clear_(folder: Path) -> None:
    for old in (_new(folder), folder):
        shutil.rmtree(old, ignore_errors=True)


def _new(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.new")


def _linked(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:
        shutil.copy2(source, to)


def find(work: Work, lineage: Lineage) -> Path | None:
    """The folder in the study that holds the network of this lineage: model/, what it was before fine-tuning, or none."""
    return next((folder for folder in (work.study.path("model"), work.study.path(".untuned")) if _is(folder, lineage)), None)


def _is(folder: Path, lineage: Lineage) -> bool:
    """Whether a folder holds, undamaged, the network of this lineage."""
    try:
        return lineage_of(folder) == lineage
    except ModelError:
        return False


def bring_back_(work: Work, folder: Path) -> tuple[nn.Module, Plan]:
    """The network of a folder that `find` found, put into model/ where it stood elsewhere."""
    small, plan = work.open(folder), read_plan(folder / "plan.json")
    if folder != work.study.path("model"):
        work.reporter.line("The fine-tuned network in model/ gives way to what it was before.")
        put_(work, small, plan, lineage_of(folder))
    return small, plan


def standing(work: Work) -> tuple[nn.Module, Plan, Lineage]:
    """The network that later stages are about, its plan, and how it came about.

    It is what stands in model/, cut, tuned or shrunk, as long as plan.json is what it was then; without one, or where
    plan.json is newer and nothing was trained, it is cut as planned. Raises StudyError where trained weights would be lost.
    """
    folder, path = work.study.path("model"), work.study.path("plan.json")
    lineage = lineage_of(folder)
    if not lineage and not (folder / "delayer.json").exists():
        plan = read_plan(path)
        return _cut_as_planned(work, plan)
    plan = read_plan(folder / "plan.json")
    plan.check(work.chain)
    if _is_up_to_date(work, lineage):
        return work.open(folder), plan, lineage
    if len(lineage) > 1 or (lineage and lineage[0].stage == "shrink"):
        raise StudyError(
            f"plan.json is newer than the network in {folder}, which was trained ({' and '.join(m.stage for m in lineage)}). "
            f"Cut as planned by `delayer cut {work.study.folder}`, which gives those weights up, or put the old plan.json back."
        )
    work.reporter.line("plan.json is newer than the network in model/, so that is cut again.")
    return _cut_as_planned(work, read_plan(path))


def _cut_as_planned(work: Work, plan: Plan) -> tuple[nn.Module, Plan, Lineage]:
    small = cut_(work, plan)
    finish(work, "cut", cut_lineage(work, plan)[0].key, [MODEL], ["plan.json"])
    return small, plan, cut_lineage(work, plan)


def _is_up_to_date(work: Work, lineage: Lineage) -> bool:
    """Whether plan.json asks for no other network than the one of this lineage."""
    path = work.study.path("plan.json")
    if not path.exists() or not lineage:  # one of an older version says nothing of where it comes from
        return True
    begin = lineage[0]
    mark = read_marks(work.study).get(begin.stage)
    if mark and mark.key == begin.key and mark.reads.get("plan.json") == file_hash(path):
        return True
    return lineage[:1] == cut_lineage(work, read_plan(path))


def check_made_on(work: Work, plan: Plan) -> None:
    """Warn where a plan was chosen on other data, or with another seed, than the network is judged on now."""
    if plan.data_hash and plan.data_hash != work.task.hash:
        work.warnings.append(
            "The plan was made on other data, or on other samples of it, so some test samples may be among "
            "those that it was chosen on."
        )
