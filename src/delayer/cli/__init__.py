"""The command line: thin commands. Adding a command is adding one file, imported here."""

from delayer.cli import commands, listing, sites
from delayer.cli.app import app
from delayer.cli.entry import main

__all__ = ["app", "commands", "listing", "main", "sites"]
