"""Where plug-ins come from, and what files say of them.

A file that was made with a plug-in names it. That is all that it may do: the name makes an error helpful, and is never a reason
to import anything (see SECURITY.md).
"""

import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata

NOTEBOOK = "__main__"


@dataclass(frozen=True)
class Origin:
    """A plug-in's kind and name, and the module and qualified name of the function or class behind it."""

    kind: str
    name: str
    module: str
    qualified: str = ""
    package: str = ""
    """The installed package that the module comes in, where a file states it; see `distribution`."""
    version: str = ""

    def again(self, old: "Origin") -> bool:
        """Whether this is the old one once more: the same spelling, or the same notebook or script."""
        return (self.module, self.qualified) == (old.module, old.qualified) or self.module == old.module == NOTEBOOK

    @property
    def whose(self) -> str:
        """The package, or the module where no package is installed that has it."""
        package, version = distribution(self.module)
        return f"{package} {version} ({self.module})" if package else _named(self.module)

    @property
    def missing(self) -> str:
        """What to say where it is not registered here, and how to get it."""
        if self.module == NOTEBOOK:
            return (
                f"The {self.kind} {self.name!r} is of somebody's notebook or script, and is not registered here. Run that code "
                "first, or put it into a module and pass --import MODULE (in Python: import it)."
            )
        of = f"{self.package} {self.version}".strip() if self.package else f"the module {self.module}"
        get = f"Install it (pip install {self.package}), or pass" if self.package else "Pass"
        return (
            f"The {self.kind} {self.name!r} of {of} is not registered here. {get} --import {self.module} (in Python: import it)."
        )


_HEARD: dict[tuple[str, str], Origin] = {}


def hear(origin: Origin) -> None:
    """Remember what a file says of a plug-in that it was made with, for the error where that is missing."""
    _HEARD[origin.kind, origin.name] = origin


def heard(kind: str, name: str) -> Origin | None:
    """What files that this process opened say of a plug-in."""
    return _HEARD.get((kind, name))


@cache
def distribution(module: str) -> tuple[str, str]:
    """Name and version of the installed package that a module comes in; two empty texts for a file that lies anywhere."""
    top = module.partition(".")[0]
    if top == NOTEBOOK or top in sys.stdlib_module_names:
        return "", ""
    found = next((package for package in metadata.distributions() if top in _tops(package)), None)
    return ("", "") if found is None else (found.metadata["Name"], found.version)


def _tops(package: metadata.Distribution) -> set[str]:
    """Names that a package can be imported by, as `metadata.packages_distributions` finds them, without a path for each file."""
    if declared := (package.read_text("top_level.txt") or "").split():
        return set(declared)
    files = (line.partition(",")[0] for line in (package.read_text("RECORD") or "").splitlines())
    return {file.partition("/")[0].removesuffix(".py") for file in files if file.endswith(".py")}


def _named(module: str) -> str:
    return "this notebook or script" if module == NOTEBOOK else f"the module {module}"
