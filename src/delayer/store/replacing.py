"""A whole folder takes another's place; after a kill at any moment the old or the new one can be brought back.

The new folder is written beside the old one and synced to the disk; then the old one steps aside and the new one takes its
name. Only between these two renames is there no folder of that name.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from delayer.errors import DelayerError


def new_place(folder: Path) -> Path:
    """Where the folder's successor is written."""
    return folder.parent / f".{folder.name}.new"


def old_place(folder: Path) -> Path:
    """Where the folder lies between the two renames."""
    return folder.parent / f".{folder.name}.old"


def replace_(folder: Path) -> None:
    """Put the new folder into the old one's place, on the disk too. Raises OSError."""
    new, old = new_place(folder), old_place(folder)
    for directory, _, files in os.walk(new, topdown=False):
        for file in files:
            sync(Path(directory) / file)
        sync(Path(directory))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def bring_back_(folder: Path, check: Callable[[Path], object]) -> str:
    """After a kill: a whole folder under its name again where there is one, and nothing beside it; what was done, in words.

    check: raises a DelayerError for a folder that is not whole.
    The complete new folder is preferred: whoever was killed between the renames had finished it.
    """
    new, old = new_place(folder), old_place(folder)
    note = ""
    if not folder.exists():
        for place, what in ((new, "the finished new one was"), (old, "the one before was")):
            if place.exists() and _whole(place, check):
                place.rename(folder)
                sync(folder.parent)
                note = f"{folder} was missing after an interruption; {what} put in its place."
                break
    if folder.exists():
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return note


def _whole(place: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(place)
    except (DelayerError, OSError):
        return False
    return True


def sync(path: Path) -> None:
    """Have a file or folder on the disk before going on."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
