"""The command line: thin commands. Adding a command is adding one file."""

import importlib
import pkgutil

from delayer.cli.app import app
from delayer.cli.entry import main
from delayer.cli.importing import imports_first
from delayer.cli.sections import Sectioned

for _module in pkgutil.iter_modules(__path__):
    if _module.name in ("__main__", "manifest"):  # programs
        continue
    importlib.import_module(f"{__name__}.{_module.name}")

for _command in app.registered_commands:
    assert _command.callback is not None
    _command.callback = imports_first(_command.callback)
    _command.cls = Sectioned

__all__ = ["app", "main"]
