"""Options that plug-ins declare as fields, gathered where a command or a record takes them by name."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from delayer.errors import PlugInError

if TYPE_CHECKING:
    from delayer.registry import Registry

R = TypeVar("R", bound=BaseModel)


class Inferred:
    """Marks an option of a plug-in that the network decides, so that nobody is asked for it."""


@dataclass(frozen=True)
class OptionsOf:
    """Marks a field that holds options of plug-ins by name: those that the entries of a registry declare as fields.

    An entry is a record class itself, or has one as its `options`.
    """

    package: str
    registry: str

    def declared(self, *, outside: bool = True) -> dict[str, tuple[Any, list[str]]]:
        """Each option's field, and the plug-ins that take it; outside: also those of anybody's packages."""
        found: dict[str, tuple[Any, list[str]]] = {}
        table: Registry[Any] = getattr(importlib.import_module(self.package), self.registry)
        for name, item in table.items() if outside else table.built_in():
            fields = getattr(item if isinstance(item, type) else getattr(item, "options", None), "model_fields", {})
            for option, info in fields.items():
                if not any(isinstance(mark, Inferred) for mark in info.metadata):
                    found.setdefault(option, (info, []))[1].append(name)
        return found

    def check(self, given: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
        """Raises PlugInError for an option that none of the named plug-ins (by default none at all) takes."""
        declared = self.declared()
        for option, value in given.items():
            takers = declared[option][1] if option in declared else []
            if not takers or (names is not None and not set(takers) & set(names)):
                whose = f"it is one of {', '.join(takers)}" if takers else f"known are {', '.join(declared)}"
                asked = "" if names is None else f" of {', '.join(names)}"
                raise PlugInError(f"{option} ({option}={value!r} was given) is no option{asked}; {whose}. Leave it out.")


def own_options(kind: type[R], given: Mapping[str, Any]) -> R:
    """A plug-in's options out of those that were given to all. Raises PlugInError for a value that does not do."""
    try:
        return kind.model_validate({name: value for name, value in given.items() if name in kind.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise PlugInError(f"{first['loc'][0]}={first['input']!r} does not do: {first['msg'].lower()}.") from error
