"""The work that a command is about: opened anew, or from a study folder."""

from pathlib import Path

from pydantic import BaseModel

from delayer import stages
from delayer.errors import DelayerError, StudyError
from delayer.progress import Reporter
from delayer.study import Study, StudyInfo
from delayer.tasks import TaskOptions


def opened(model: str, data: list[str] | None, out: Path | None, load: stages.LoadOptions, task: TaskOptions,
            test: str | None, quiet: bool, **more: BaseModel) -> stages.Work:
    """The work that a command is about; a study folder stands for what was asked when it was made."""
    reporter = Reporter(quiet=quiet)
    folder = Path(model)
    if (folder / "study.json").exists():
        return reopened(folder, reporter)
    if not data:
        raise DelayerError(f"Which data? Give --data, such as imagefolder:PATH or digits. ({model} is no study folder.)")
    options = {k: v for record in (load, task, *more.values()) for k, v in record.model_dump(mode="json").items()}
    return stages.open_work(model, data, out=out, load_options=load, task_options=task, test=test,
                            options=options | {"test": test}, reporter=reporter)


def reopened(folder: Path, reporter: Reporter) -> stages.Work:
    """The work of a study folder, with the network, data and options that it was made with."""
    info: StudyInfo = Study(folder).read("study")
    chosen = {m: m(**{k: v for k, v in info.asked.options.items() if k in m.model_fields and v is not None})
              for m in (stages.LoadOptions, TaskOptions)}
    work = stages.open_work(info.asked.model, info.asked.data, out=folder, load_options=chosen[stages.LoadOptions],
                            task_options=chosen[TaskOptions], test=info.asked.options.get("test"),
                            options=info.asked.options, reporter=reporter)
    if work.model_hash != info.provenance.model_hash:
        raise StudyError(
            f"{folder} was made for weights {info.provenance.model_hash}, but {info.asked.model} now has "
            f"{work.model_hash}. Start a new study folder, or bring the old weights back."
        )
    return work
