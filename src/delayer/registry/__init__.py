"""Name → object tables that a new file in a folder joins by itself, and plug-ins of anybody's package as well."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from delayer.errors import PlugInError, UnknownName
from delayer.registry.origins import NOTEBOOK, Origin, heard
from delayer.registry.outside import load_installed, typed

T = TypeVar("T")
_ALL: list["Registry[Any]"] = []


class Registry(Generic[T]):
    """A table of named objects of one kind, such as metrics or edits.

    `package` is the folder whose files register themselves; it is imported when the table is first read, so adding a file to
    the folder is all that adding an entry takes. Plug-ins from outside register in the same way: those that are installed
    are found then too, others when their module is imported.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._items: dict[str, T] = {}
        self._origins: dict[str, Origin] = {}
        self._own, self._complete = False, False
        _ALL.append(self)

    def register(self, name: str, of: Any = None) -> Callable[[T], T]:
        """A decorator that enters an object under that name.

        of: the function or class that the object is a record about; by default the object itself. The same one, from a cell or
        a module that ran again, takes the old one's place. Raises PlugInError for another one of the same name.
        """
        calling = _module_of_caller(self.package)

        def add(item: T) -> T:
            made_of = item if of is None else of
            qualified = getattr(made_of, "__qualname__", "")
            new = Origin(self.kind, name, made_of.__module__ if qualified else calling, qualified)
            if not self._is_own(new):
                self._load_own()
            old = self._origins.get(name)
            if old is not None and not new.again(old):
                raise PlugInError(
                    f"Two {self.kind}s are called {name!r}: one of {old.whose}, and one of {new.whose}. Rename one of them."
                )
            self._items[name], self._origins[name] = item, new
            return item

        return add

    def origin(self, name: str) -> Origin | None:
        """Where a plug-in comes from; None for delayer's own, and for names that nobody has registered."""
        found = self._origins.get(name)
        return None if found is None or self._is_own(found) else found

    def _is_own(self, origin: Origin) -> bool:
        return origin.module == self.package or origin.module.startswith(f"{self.package}.")

    def _load_own(self) -> None:
        if not self._own:
            folder = importlib.import_module(self.package)
            for module in sorted(info.name for info in pkgutil.iter_modules(folder.__path__)):
                importlib.import_module(f"{self.package}.{module}")
            self._own = True

    def built_in(self) -> list[tuple[str, T]]:
        """Names and objects of delayer's own, by name; nothing from outside is looked for."""
        self._load_own()
        return sorted((name, item) for name, item in self._items.items() if self.origin(name) is None)

    def _load(self) -> dict[str, T]:
        if not self._complete:
            self._load_own()
            load_installed()
            self._complete = True
        return self._items

    def __getitem__(self, name: str) -> T:
        items = self._load()
        if name in items:
            return items[name]
        if (stated := heard(self.kind, name)) is not None:
            raise UnknownName(stated.missing)
        near = get_close_matches(name, items, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UnknownName(f"There is no {self.kind} {name!r}.{hint} Known: {', '.join(sorted(items))}.")

    def __contains__(self, name: str) -> bool:
        return name in self._load()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._load()))

    def __len__(self) -> int:
        return len(self._load())

    def values(self) -> list[T]:
        """Objects, by name."""
        return [item for _, item in self.items()]

    def items(self) -> list[tuple[str, T]]:
        """Names and objects, by name."""
        return sorted(self._load().items())


def origins() -> list[Origin]:
    """Where every plug-in from outside comes from that this process has registered."""
    return [found for one in _ALL for name in one._origins if (found := one.origin(name)) is not None]


def imports() -> tuple[str, ...]:
    """The modules that another process has to import to know the plug-ins that this one knows."""
    return tuple(dict.fromkeys((*typed(), *(one.module for one in origins() if one.module != NOTEBOOK))))


def _module_of_caller(package: str) -> str:
    """The module that registers: the nearest on the stack that is neither this one nor a kind's own helper."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in (__name__, package):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "__main__")
