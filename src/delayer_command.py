"""The command `delayer`. It is no part of the package, so that Ctrl-C ends in one line also while torch is imported.

Help and wrong options are answered from a file that describes the command line (`delayer.cli.manifest`), before anything is
imported.
"""

import json
import os
import shutil
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).parent / "delayer" / "cli" / "manifest.json"
WIDTH = 80
"""Columns that the help in the file is laid out for."""


def main() -> None:
    """Answer at once what needs no network; else import the command line, which takes seconds, and run it."""
    if (code := answered(sys.argv[1:])) is not None:
        sys.exit(code)
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell told background jobs to ignore it
        signal.signal(signal.SIGINT, _stop)
    try:
        from delayer.cli import main as run
    finally:
        signal.signal(signal.SIGINT, before)
    run()


def answered(words: list[str]) -> int | None:
    """The exit code where help was asked for or a word is none of the command line's, once that is said; None for all else."""
    try:
        command, path = json.loads(MANIFEST.read_text("utf-8")), "delayer"
    except (OSError, ValueError):  # the command line itself knows better
        return None
    if words[:1] == ["--version"]:
        return _printed(command["version"])
    while "commands" in command and words and not words[0].startswith("-"):
        if words[0] not in command["commands"]:
            return _refused(command, path, "command", words[0], command["commands"])
        command, path, words = command["commands"][words[0]], f"{path} {words[0]}", words[1:]
    if unknown := _unknown(command, words):
        return _refused(command, path, "option", unknown, command["options"])
    if not _asks_for_help(command, words) or shutil.get_terminal_size().columns < WIDTH:
        return None
    return _printed(command["help"])


def _printed(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _options(command: dict[str, Any], words: list[str]) -> list[str]:
    """The options among some words, without those words that are an option's value."""
    found, value = [], False
    for word in words:
        if value:
            value = False
        elif word == "--":
            break
        elif word.startswith("--") or (word.startswith("-") and len(word) == 2):
            name, given, _ = word.partition("=")
            found.append(name)
            value = command["options"].get(name, False) and not given
    return found


def _unknown(command: dict[str, Any], words: list[str]) -> str | None:
    """The first option that is none of the command's; nothing that looks like a negative number."""
    return next((name for name in _options(command, words) if name not in command["options"] and not name[1:].isdigit()), None)


def _asks_for_help(command: dict[str, Any], words: list[str]) -> bool:
    return bool({"-h", "--help"} & set(_options(command, words))) or (not words and "commands" in command)


def _refused(command: dict[str, Any], path: str, what: str, word: str, known: Any) -> int:
    near = get_close_matches(word, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    print(f"{command['usage']}\nTry '{path} --help' for help.\n\nError: No such {what}: {word}.{hint}", file=sys.stderr)
    return 2


def _stop(*_) -> None:
    """Nothing was begun, so nothing is cleared up; an exception could be swallowed by a library that is half imported."""
    print("\nStopped. The same command goes on where this one stood.", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
