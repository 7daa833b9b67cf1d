"""`--config FILE`: options of a command from a file, such as the config.yaml that every study keeps of how it was made."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from delayer.cli.sections import OUTPUT
from delayer.errors import DelayerError
from delayer.store.given import is_name
from delayer.study import Study

NAME = "config.yaml"
LARGEST = 1 << 20
"""Bytes that such a file may have."""
NEVER = frozenset({"factory", "trust", "allow_changed", "import_", "config", "others", "lm_eval"})
"""What no file may say: these let code run, as functions of networks (--with) and task files of lm-eval do as well."""
UNTYPED = "\0"
"""Stands before a name that a file gives and that only the user may."""
_asked: ContextVar[list[Study] | None] = ContextVar("asked", default=None)
"""Studies that the command under way makes."""


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's options as the command's defaults. Raises DelayerError for what it may not, or cannot, hold."""
    if path is None:
        return None
    params = {_key(param): param for param in context.command.params}
    found = _options_in(path)
    for key in found:
        if key not in params:
            near = get_close_matches(key, params, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise DelayerError(f"{path} has an option {key!r}, which `{context.command_path}` does not take.{hint}")
        if params[key].name in NEVER:
            raise DelayerError(f"{path} says {key}, which is never taken from a file. Type it: {params[key].opts[0]}.")
    if _runs(str(found.get("model", ""))):
        found["model"] = UNTYPED + str(found["model"])  # refused unless another is typed, which is not known yet
    context.default_map = {params[key].name: value for key, value in found.items()}
    return path


def _runs(model: str) -> bool:
    """Whether a network's name lets code run that is no library's: a function, or a folder that timm would open."""
    kind, _, name = model.partition(":")
    return ":" in name if kind == "timm" else is_name(model)


def _options_in(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise DelayerError(f"{path} holds more than a configuration ({path.stat().st_size:,} bytes).")
        found = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DelayerError(f"{path} could not be read as a configuration: {first}. Give a YAML file of options.") from error
    if not isinstance(found, dict) or not all(isinstance(key, str) and _plain(value) for key, value in found.items()):
        raise DelayerError(f"{path} is no list of options. Write them a line each, such as `remove: blocks=3`.")
    return found


def _plain(value: Any) -> bool:
    simple = (str, int, float, bool)
    return isinstance(value, simple) or (isinstance(value, list) and all(isinstance(each, simple) for each in value))


def _key(param: Any) -> str:
    """The name of an option in a file: as it is typed, without dashes in front."""
    return param.name if param.param_type_name == "argument" else param.opts[0].lstrip("-")


CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=_read,
        help="YAML file of options, such as a study's config.yaml, which repeats it; what is typed goes before it.",
        rich_help_panel=OUTPUT,
    ),
]


def takes_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with --config; studies that it makes keep what was asked for as config.yaml."""

    def wrapped(*, context: typer.Context, config: Path | None, **arguments: Any) -> Any:
        if (model := str(arguments.get("model", ""))).startswith(UNTYPED):
            name = model.removeprefix(UNTYPED)
            typed = f"{context.command_path} {name} --config {config}"
            raise DelayerError(f"{config} names {name}, code that would run. Type it: {typed}")
        with _remembering(_text_of(context)):
            return command(**arguments)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(command).parameters.values()]
    more = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=CONFIG),
    ]
    vars(wrapped)["__signature__"] = inspect.Signature([*own, *more])
    wrapped.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    return wrapped


def _text_of(context: typer.Context) -> str:
    """What was asked for beyond defaults, as a file."""
    said: dict[str, Any] = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is None or source.name == "DEFAULT" or param.name in NEVER | {"json_", "quiet"}:
            continue
        said[_key(param)] = _written(context.params[param.name or ""])
    head = f"# {context.command_path} --config {NAME} asks for the same; paths are as they were typed.\n"
    return head + yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _written(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_written(each) for each in value]
    return value if isinstance(value, bool | int | float) else str(value)


@contextmanager
def _remembering(text: str) -> Iterator[None]:
    made: list[Study] = []
    token = _asked.set(made)
    try:
        yield
    except Exception:  # a command that was refused asked for no study
        made.clear()
        raise
    finally:
        _asked.reset(token)
        for study in made:
            if study.path("study.json").exists():
                study.path(NAME).write_text(text, "utf-8")


def keep_config(study: Study) -> None:
    """Have a study say how it was asked for, once the command that makes it ends, or is stopped."""
    if (made := _asked.get()) is not None:
        made.append(study)
