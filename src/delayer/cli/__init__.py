"""The command line: thin commands. Adding a command is adding one file."""

import importlib
import pkgutil

from delayer.cli.app import app
from delayer.cli.entry import main

for _module in pkgutil.iter_modules(__path__):
    if _module.name == "__main__":
        continue
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["app", "main"]
