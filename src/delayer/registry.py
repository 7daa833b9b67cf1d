"""Name → object tables that a new file in a folder joins by itself."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar

from delayer.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named objects of one kind, such as metrics or edits.

    `package` is the folder whose files register themselves; it is imported when the table is first read, so
    adding a file to the folder is all that adding an entry takes.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._items: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters an object under that name."""

        def add(item: T) -> T:
            if self._items.setdefault(name, item) is not item:
                raise ValueError(f"Two {self.kind}s are called {name!r}.")
            return item

        return add

    def _load(self) -> dict[str, T]:
        if not self._complete:
            folder = importlib.import_module(self.package)
            for module in sorted(info.name for info in pkgutil.iter_modules(folder.__path__)):
                importlib.import_module(f"{self.package}.{module}")
            self._complete = True
        return self._items

    def __getitem__(self, name: str) -> T:
        items = self._load()
        if name in items:
            return items[name]
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
        """Names and objects, by name."""
        return sorted(self._load().items())
