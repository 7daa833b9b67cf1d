"""Folders of sentence encoders: where the network lies in one, and which modules stand behind it."""

from pathlib import Path, PurePosixPath
from typing import Any

from delayer.errors import ModelError
from delayer.store.integrity import read_json

MODULES = "modules.json"


def network_of(name: str) -> str:
    """The folder of the network itself: older folders of sentence-transformers keep it in one of its own (0_Transformer)."""
    folder = Path(name)
    if (folder / "config.json").exists() or not (folder / MODULES).is_file():
        return name
    inner = _inner(folder)
    return name if inner is None or not (folder / inner / "config.json").exists() else str(folder / inner)


def home_of(name: str) -> tuple[str, str]:
    """The folder whose modules.json names a network, and the network's folder in it ("" where it is that one itself)."""
    folder = Path(name)
    if not (folder / MODULES).exists() and _inner(folder.parent) == folder.name:
        return str(folder.parent), folder.name
    return name, ""


def moved(modules: list[dict[str, Any]], inner: str) -> list[dict[str, Any]]:
    """The modules with the network in the folder itself, where its library looks for it too, and AutoModel alone."""
    return [module | {"path": ""} if module["path"] == inner else module for module in modules]


def _inner(folder: Path) -> str | None:
    """The folder of the first module, where it is one folder down."""
    if not (folder / MODULES).is_file():
        return None
    try:
        first = read_json(folder / MODULES, list)[0]["path"]
    except (ModelError, OSError, KeyError, TypeError, IndexError):  # whoever reads it for its modules says what is wrong
        return None
    return first if isinstance(first, str) and first and PurePosixPath(first).name == first else None
