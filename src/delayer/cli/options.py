"""Options of commands from option models: a field's docstring is the option's help."""

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from delayer.cli.sections import section_of
from delayer.errors import DelayerError
from delayer.registry.options import OptionsOf

ANY = "*"
ANY_HELP = "Another option of a plug-in, NAME=VALUE; may be repeated."


@dataclass(frozen=True)
class _Asked:
    """One option of a command: which field of which model it fills, and for plug-ins' options under which name in it."""

    model: str
    field: str
    key: str | None
    type: Any
    default: Any
    help: str


def with_options(**models: type[BaseModel]) -> Callable[[Callable], Callable]:
    """Give a command one option for each field of some option models; it gets the filled models by their names.

    A field that holds plug-ins' options (`OptionsOf`) becomes an option for each of them.
    """

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command).parameters
        asked = {name: one for model, kind in models.items() for name, one in _asked(model, kind)}

        def wrapped(**given: Any) -> Any:
            values: dict[str, dict[str, Any]] = {model: {} for model in models}
            for name, one in asked.items():
                if given[name] is None:
                    continue
                if one.key == ANY:
                    into = values[one.model].setdefault(one.field, {})
                    for key, value in map(_named, given[name]):
                        if into.setdefault(key, value) is not value:
                            raise DelayerError(f"{key} is given twice. Leave one of them out.")
                else:
                    value = tuple(given[name]) if isinstance(given[name], list) else given[name]
                    into = values[one.model] if one.key is None else values[one.model].setdefault(one.field, {})
                    into[one.key or one.field] = value
            try:
                filled = {model: kind(**values[model]) for model, kind in models.items()}
            except ValidationError as error:
                first = error.errors()[0]
                option = "--" + str(first["loc"][0]).replace("_", "-")
                raise DelayerError(f"{option} {first['input']!r} does not do: {first['msg'].lower()}.") from error
            return command(**{k: v for k, v in given.items() if k not in asked}, **filled)

        extra = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=Annotated[
                    one.type,
                    typer.Option(
                        help=one.help,
                        show_default=one.default not in (None, []),
                        rich_help_panel=section_of(one.model, one.field),
                    ),
                ],
            )
            for name, one in asked.items()
        ]
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in own.items() if n not in models]
        wrapped.__signature__ = inspect.Signature([*kept, *extra])
        wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *extra]}
        wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
        return wrapped

    return decorate


def _asked(model: str, kind: type[BaseModel]) -> Iterator[tuple[str, _Asked]]:
    """The options that fill a model, by name."""
    for field, info in kind.model_fields.items():
        plugged = next((mark for mark in info.metadata if isinstance(mark, OptionsOf)), None)
        if plugged is None:
            default = info.get_default(call_default_factory=True)
            default = list(default) if isinstance(default, tuple) else default
            yield field, _Asked(model, field, None, _plain_type(info.annotation), default, info.description or "")
            continue
        for key, (option, takers) in plugged.declared(outside=False).items():
            yield key, _Asked(model, field, key, _or_none(_plain_type(option.annotation)), None, _help(option, takers))
        yield field.removesuffix("s"), _Asked(model, field, ANY, list[str] | None, None, ANY_HELP)


def _named(text: str) -> tuple[str, Any]:
    """The name and value in NAME=VALUE: a number, true or false where it reads as one, else a text."""
    name, given, value = text.partition("=")
    if not (given and name.isidentifier()):
        raise DelayerError(f"{text!r} is no option of a plug-in. Write NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _help(option: FieldInfo, takers: list[str]) -> str:
    return f"{(option.description or '').rstrip('.')} (for {', '.join(takers)})."


def _or_none(kind: Any) -> Any:
    return kind if type(None) in get_args(kind) else kind | None


def _plain_type(kind: Any) -> Any:
    """What typer understands of a field's type: tuples become lists, choices their base type."""
    options = [a for a in get_args(kind) if a is not type(None)]
    if get_origin(kind) is Annotated:
        return _plain_type(options[0])
    if get_origin(kind) is tuple:
        return list[_plain_type(options[0])]
    if get_origin(kind) is Literal:
        return type(options[0])
    if type(None) in get_args(kind):
        first = next((a for a in options if get_origin(a) is not tuple), options[0])
        return _or_none(_plain_type(first)) if get_origin(first) in (None, Literal) else _plain_type(first)
    return str if get_origin(kind) is not None and get_origin(kind) is not list else kind
