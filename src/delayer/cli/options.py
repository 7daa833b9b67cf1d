"""Options of commands from option models: a field's docstring is the option's help."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError

from delayer.errors import DelayerError


def with_options(**models: type[BaseModel]) -> Callable[[Callable], Callable]:
    """Give a command one option for each field of some option models; it gets the filled models by their names."""

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command).parameters
        fields = {f: (name, info) for name, model in models.items() for f, info in model.model_fields.items()}

        def wrapped(**given: Any) -> Any:
            try:
                filled = {
                    name: model(
                        **{
                            f: tuple(given[f]) if isinstance(given[f], list) else given[f]
                            for f, (owner, _) in fields.items()
                            if owner == name and given[f] is not None
                        }
                    )
                    for name, model in models.items()
                }
            except ValidationError as error:
                first = error.errors()[0]
                option = "--" + str(first["loc"][0]).replace("_", "-")
                raise DelayerError(f"{option} {first['input']!r} does not do: {first['msg'].lower()}.") from error
            return command(**{k: v for k, v in given.items() if k not in fields}, **filled)

        extra = [
            inspect.Parameter(
                f,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(info),
                annotation=Annotated[
                    _plain_type(info.annotation), typer.Option(help=info.description, show_default=info.default not in (None, ()))
                ],
            )
            for f, (_, info) in fields.items()
        ]
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in own.items() if n not in models]
        wrapped.__signature__ = inspect.Signature([*kept, *extra])
        wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *extra]}
        wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
        return wrapped

    return decorate


def _default(info: Any) -> Any:
    return list(info.default) if isinstance(info.default, tuple) else info.default


def _plain_type(kind: Any) -> Any:
    """What typer understands of a field's type: tuples become lists, choices their base type."""
    options = [a for a in get_args(kind) if a is not type(None)]
    if get_origin(kind) is tuple:
        return list[options[0]]
    if type(None) in get_args(kind):
        first = next((a for a in options if get_origin(a) is not tuple), options[0])
        return _plain_type(first) | None if get_origin(first) is None else _plain_type(first)
    return str if get_origin(kind) is not None and get_origin(kind) is not list else kind
