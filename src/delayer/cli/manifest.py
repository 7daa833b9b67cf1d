"""What the command line looks like, in a file that `delayer_command` reads: help and wrong options need no import of torch.

    python -m delayer.cli.manifest        writes it anew, after an option was added or changed

A test holds it against the command line itself.
"""

import json
from pathlib import Path
from typing import Any

import typer

from delayer.study.version import __version__

FILE = Path(__file__).parent / "manifest.json"
WIDTH = 80
"""Columns that help is laid out for, which is the most that it takes on a wider terminal."""


def manifest() -> dict[str, Any]:
    """The command line as it is: the help of each command, and its options with whether they take a value."""
    from delayer.cli import app

    command = typer.main.get_command(app)
    context = command.make_context("delayer", [], resilient_parsing=True, max_content_width=WIDTH, terminal_width=WIDTH)
    return {"version": __version__} | _described(command, context)


def _described(command: Any, context: Any) -> dict[str, Any]:
    params = [param for param in command.get_params(context) if param.param_type_name == "option"]
    found: dict[str, Any] = {
        "help": command.get_help(context),
        "usage": command.get_usage(context),
        "options": {
            name: not (param.is_flag or param.count) for param in params for name in (*param.opts, *param.secondary_opts)
        },
    }
    if below := getattr(command, "commands", {}):
        found["commands"] = {
            name: _described(each, each.make_context(name, [], parent=context, resilient_parsing=True))
            for name, each in sorted(below.items())
        }
    return found


def write() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(manifest(), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write()
