"""`--import MODULE` on every command: plug-ins that no installed package announces, named by whoever types the command."""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from delayer.cli.sections import TRUST
from delayer.errors import DelayerWarning
from delayer.registry.outside import import_typed

IMPORT = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        envvar="DELAYER_IMPORT",
        help="Module that registers plug-ins of your own; may be repeated; never taken from a file.",
        rich_help_panel=TRUST,
    ),
]


def imports_first(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with --import, which comes before all else, so that its other options may name what was imported."""

    def wrapped(*, import_: list[str] | None, **arguments: Any) -> Any:
        with warnings_in_sentences():
            for name in import_ or ():
                import_typed(name)
            return command(**arguments)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(command).parameters.values()]
    option = inspect.Parameter("import_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=IMPORT)
    vars(wrapped)["__signature__"] = inspect.Signature([*own, option])
    wrapped.__annotations__ = {p.name: p.annotation for p in (*own, option)}
    wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
    return wrapped


@contextmanager
def warnings_in_sentences() -> Iterator[None]:
    """Inside, a warning of delayer's is one sentence on standard error, and others are as before."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", DelayerWarning)
        otherwise = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, DelayerWarning):
                print(f"delayer: {message}", file=sys.stderr)
            else:
                otherwise(message, category, *place, **more)

        warnings.showwarning = show
        yield
