"""Functions of the user's own, named as `package.module:function`: only names that the user himself gave are ever imported.

Files hold such names as well: a saved network, a study, a search. A file's word is compared with the names that were given in
this process and is never itself a reason to import anything.
"""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from delayer.errors import UnknownName
from delayer.libraries import first_line

_GIVEN: dict[str, Callable[..., Any]] = {}


def is_name(text: str) -> bool:
    """Whether a text is spelled `package.module:function`; `gguf:file.gguf` is a file."""
    module, colon, function = text.partition(":")
    return bool(colon) and module != "gguf" and all(part.isidentifier() for part in (*module.split("."), *function.split(".")))


def give(name: str) -> Callable[..., Any]:
    """The function of a name that the user typed; the name is known from then on, and files may refer to it.

    What is not installed is looked for in the current folder. Raises UnknownName when there is no such thing.
    """
    module, _, attribute = name.partition(":")
    found: Any = None
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: a library that is imported later must not come from a folder of files
    try:
        if not is_name(name):
            raise ImportError("it is not spelled so")
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        near = get_close_matches(attribute, dir(found), n=3)
        raise UnknownName(
            f"{name!r} cannot be found ({first_line(error)}). "
            + (f"Did you mean {' or '.join(near)}? " if near else "")
            + "Name a function as package.module:factory, importable from the current folder or installed."
        ) from error
    return remember(name, found)


def remember(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """From now on a file's `name` means this function, which the user handed over himself."""
    _GIVEN[name] = function
    return function


def given(name: str) -> Callable[..., Any] | None:
    """The function of a name, where the user gave that very name in this process; nothing is imported."""
    return _GIVEN.get(name)


def given_names() -> dict[str, str]:
    """Each name that was given in this process, and the spelling under which another process can import its function."""
    spelled = {name: f"{getattr(f, '__module__', '')}:{getattr(f, '__qualname__', '')}" for name, f in _GIVEN.items()}
    return {name: other if is_name(other) and not other.startswith("__main__:") else name for name, other in spelled.items()}
