"""The work that a command is about: opened anew, or from a study folder, and what the user allows files to name."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from delayer import stages
from delayer.cli.config import keep_config
from delayer.cli.importing import warnings_in_sentences
from delayer.cli.sections import TRUST as TRUST_SECTION
from delayer.errors import DelayerError, StudyError
from delayer.progress import Reporter
from delayer.store import allowing
from delayer.store.given import give, given, given_names, is_name, remember
from delayer.store.trust import allowed, not_given
from delayer.study import Study, StudyInfo, first_fault
from delayer.tasks import TaskOptions

FACTORY = Annotated[
    list[str] | None,
    typer.Option(
        "--factory",
        metavar="NAME",
        envvar="DELAYER_FACTORY",
        help="package.module:factory of your own that the opened folders were made with; never taken from a file.",
        rich_help_panel=TRUST_SECTION,
    ),
]
TRUST = Annotated[
    bool,
    typer.Option(
        "--trust", help="Import and call whatever the opened folders name. They may run anything.", rich_help_panel=TRUST_SECTION
    ),
]
CHANGED = Annotated[
    bool,
    typer.Option(
        "--allow-changed", help="Open networks whose files are not those that were saved.", rich_help_panel=TRUST_SECTION
    ),
]


def opens_networks(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that opens networks, with the options that say what their folders may name."""

    def wrapped(*, factory: list[str] | None, trust: bool, allow_changed: bool, **arguments: Any) -> Any:
        for name in factory or ():
            give(name)
        with allowing(trust=trust, allow_changed=allow_changed), warnings_in_sentences():
            return command(**arguments)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(command).parameters.values()]
    options = (("factory", None, FACTORY), ("trust", False, TRUST), ("allow_changed", False, CHANGED))
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in options
    ]
    wrapped.__signature__ = inspect.Signature([*own, *more])
    wrapped.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    return wrapped


def opened(
    model: str,
    data: list[str] | None,
    out: Path,
    load: stages.LoadOptions,
    task: TaskOptions,
    test: str | None,
    quiet: bool,
    *,
    beside: bool = False,
    **more: BaseModel,
) -> stages.Work:
    """The work that a command is about; a study folder stands for what was asked when it was made.

    beside: a network to compare with, whose study brings its own data and options.
    Raises DelayerError where a study is opened with other data or options than its own.
    """
    reporter = Reporter(quiet=quiet)
    folder = Path(model)
    if (folder / "study.json").exists():
        if not beside:
            _check_own(folder, data, test, load, task)
        return reopened(folder, reporter)
    if not data:
        raise DelayerError(f"Which data? Give --data, such as imagefolder:PATH or digits. ({model} is no study folder.)")
    options = {k: v for record in (load, task, *more.values()) for k, v in record.model_dump(mode="json").items()}
    work = stages.open_work(
        model, data, out=out, load_options=load, task_options=task, test=test, options=options | {"test": test}, reporter=reporter
    )
    if not beside:
        keep_config(work.study)
    return work


def _check_own(folder: Path, data: list[str] | None, test: str | None, *typed: BaseModel) -> None:
    """Raises DelayerError for data or options that a study was not made with, which would not be used."""
    asked = Study(folder).read("study").asked
    others = ["--data"] * bool(data and tuple(data) != asked.data) + ["--test"] * bool(test and test != asked.options.get("test"))
    for options in typed:
        given = options.model_dump(mode="json")
        defaults = type(options).model_validate({}).model_dump(mode="json")
        others += [
            f"--{name.replace('_', '-')}"
            for name, value in given.items()
            if value != defaults[name] and value != asked.options.get(name)
        ]
    if others:
        raise DelayerError(
            f"{folder} stands for the network, data and options that it was made with, and {', '.join(others)} "
            "would make it another study. Leave that out, or name the network and another --out folder."
        )


Options = TypeVar("Options", bound=BaseModel)


def _stated(kind: type[Options], options: Mapping[str, Any]) -> Options:
    """The options of a kind that a study states, and no others."""
    return kind(**{k: v for k, v in options.items() if k in kind.model_fields and v is not None})


def reopened(folder: Path, reporter: Reporter) -> stages.Work:
    """The work of a study folder, with the network, data and options that it was made with."""
    info: StudyInfo = Study(folder).read("study")
    try:
        load, task = _stated(stages.LoadOptions, info.asked.options), _stated(TaskOptions, info.asked.options)
    except ValidationError as problem:
        raise StudyError(
            f"{folder / 'study.json'} states options that do not do: {first_fault(problem)}. Bring the file back, "
            "or start a new study folder."
        ) from problem
    model = _model_of(info.asked.model, folder)
    work = stages.open_work(
        model,
        info.asked.data,
        out=folder,
        load_options=load,
        task_options=task,
        test=info.asked.options.get("test"),
        options=info.asked.options,
        reporter=reporter,
    )
    if work.model_hash != info.provenance.model_hash:
        raise StudyError(
            f"{folder} was made for weights {info.provenance.model_hash}, but {info.asked.model} now has "
            f"{work.model_hash}. Start a new study folder, or bring the old weights back."
        )
    return work


def _model_of(asked: str, folder: Path) -> str:
    """The network of a study, as a name that may be opened: a factory's only where the user gave it in this very call."""
    if asked.startswith("timm:") and ":" in asked[5:] and not allowed()[0]:
        raise DelayerError(
            f"{folder} was made with {asked}, whose folder may be anybody's. If it is yours, add --trust, or "
            "start a new study folder and name the network yourself."
        )
    if not is_name(asked) or given(asked) or allowed()[0]:
        return asked
    if len(typed := given_names()) != 1:
        raise DelayerError(not_given(asked, str(folder)))
    (name,) = typed
    remember(asked, give(name))
    return name
