"""Options that plug-ins declare as fields, gathered where a command or a record takes them by name."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delayer.registry import Registry


class Inferred:
    """Marks an option of a plug-in that the network decides, so that nobody is asked for it."""


@dataclass(frozen=True)
class OptionsOf:
    """Marks a field that holds options of plug-ins by name: those that the entries of a registry declare as fields.

    An entry is a record class itself, or has one as its `options`.
    """

    package: str
    registry: str

    def declared(self) -> dict[str, tuple[Any, list[str]]]:
        """Each option's field, and the plug-ins that take it."""
        found: dict[str, tuple[Any, list[str]]] = {}
        table: Registry[Any] = getattr(importlib.import_module(self.package), self.registry)
        for name, item in table.items():
            fields = getattr(item if isinstance(item, type) else getattr(item, "options", None), "model_fields", {})
            for option, info in fields.items():
                if not any(isinstance(mark, Inferred) for mark in info.metadata):
                    found.setdefault(option, (info, []))[1].append(name)
        return found
