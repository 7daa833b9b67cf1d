"""Plug-ins from outside: found as entry points of installed packages, or imported because the user typed their name.

A package says in its pyproject.toml which module registers its plug-ins, and that is imported when a registry is first read:

    [project.entry-points."delayer.plugins"]
    my_package = "my_package.plugins"
"""

import importlib
import sys
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from delayer.errors import DelayerError, DelayerWarning, PlugInError
from delayer.libraries import first_line

GROUP = "delayer.plugins"
_TYPED: dict[str, None] = {}
_LOOKED = False


def load_installed() -> None:
    """Import the plug-ins of all installed packages, once; of one that fails a DelayerWarning tells.

    What lies in the current folder is not installed: whoever opens a folder of somebody's must not run what is in it.
    """
    global _LOOKED
    if _LOOKED:
        return
    _LOOKED = True
    for point, package in sorted(_entry_points(), key=lambda one: one[0].name):
        try:
            point.load()
        except (Exception, SystemExit) as error:
            why = first_line(error) if isinstance(error, DelayerError) else f"{type(error).__name__}: {first_line(error)}"
            warnings.warn(
                f"The plug-in {point.name} ({point.value}) of {package} is left out, since it cannot be imported: {why}. Mend or "
                "uninstall that package.",
                DelayerWarning,
                stacklevel=2,
            )


def _entry_points() -> list[tuple[metadata.EntryPoint, str]]:
    """Each entry point of the group, and the package that it is of; the first of packages that are installed twice."""
    here, found = Path.cwd(), {}
    path = [folder for folder in sys.path if folder and Path(folder).resolve() != here]
    for package in metadata.distributions(path=path):
        points = package.entry_points.select(group=GROUP)
        if points and package.name not in found:
            found[package.name] = [(point, f"{package.name} {package.version}") for point in points]
    return [pair for pairs in found.values() for pair in pairs]


def import_typed(name: str) -> None:
    """Import a module that the user named, which registers what it holds; the current folder is looked in last.

    Raises PlugInError when there is no such module, or when it fails.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise PlugInError(f"--import {name!r} names no module. Give a name as in Python's import, such as my_package.plugins.")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: a library that is imported later must not come from a folder of files
    try:
        importlib.import_module(name)
    except DelayerError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise PlugInError(f"--import {name} needs {error.name}, which is not installed. Install that first.") from error
        raise PlugInError(
            f"--import {name}: there is no module {error.name}, neither installed nor in {Path.cwd()}. Install its package, or "
            "go to the folder that holds it."
        ) from error
    except (Exception, SystemExit) as error:
        raise PlugInError(f"--import {name} fails: {type(error).__name__}: {first_line(error)}. Mend that module.") from error
    _TYPED[name] = None


def typed() -> tuple[str, ...]:
    """The modules that the user named, in the order in which they were imported."""
    return tuple(_TYPED)


def import_again(names: Iterable[str]) -> None:
    """Import what the process that started this one knew (`delayer.registry.imports`); of what fails a DelayerWarning tells."""
    for name in names:
        try:
            import_typed(name)
        except DelayerError as error:
            warnings.warn(str(error), DelayerWarning, stacklevel=2)
