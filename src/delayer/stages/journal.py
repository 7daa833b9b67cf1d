"""The search's journal: a line for each cut that was measured, so that a killed search goes on where it stood.

Each line carries a checksum of itself. A line that a crash, a full disk or an editor left damaged is not believed, its
cut is measured anew, and no damage can change what a search finds.
"""

import math
import os
from pathlib import Path
from typing import Any

from delayer.errors import StudyError
from delayer.search.judging import damage_of
from delayer.study import Grade, as_lines, whole_lines


class Journal:
    """The grades in a file, of those lines that belong to one search.

    key: what else than the cut decides a grade; lines of other keys stay for whoever searches so.
    """

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.damaged = 0
        """Lines that `read` did not believe."""

    def read(self) -> dict[str, Grade]:
        """The grades by cut. Raises StudyError where there is a file that cannot be read."""
        found, self.damaged = {}, 0
        for entry in whole_lines(self.path) if self.path.exists() else ():
            try:
                key, cut, grade = _believed(entry)
            except (ValueError, TypeError, KeyError):  # pydantic's errors are ValueErrors
                self.damaged += 1
                continue
            if key == self.key:
                found[cut] = grade
        return found

    @property
    def damage(self) -> str:
        """What is to be said of the lines that were not believed; "" where there were none."""
        lines = "1 line that is" if self.damaged == 1 else f"{self.damaged} lines that are"
        return f"{self.path.name} holds {lines} damaged; what was told there is measured anew." if self.damaged else ""

    def append(self, cut: str, grade: Grade) -> None:
        """Add a line. Raises StudyError where the disk is full or the folder cannot be written."""
        line = as_lines([{"key": self.key, "cut": cut, "grade": grade.model_dump(mode="json")}]).encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                if file.seekable() and file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # behind a line that was cut short
                file.write(line)
        except OSError as error:
            raise StudyError(
                f"{self.path} could not be written ({error.strerror or error}); what was measured before is kept. "
                "Free some space and give the same command again, or choose another --out folder."
            ) from error


def _believed(entry: dict[str, Any] | None) -> tuple[str, str, Grade]:
    """A line's key, cut and grade. Raises ValueError, TypeError or KeyError for one that is not whole."""
    if entry is None:
        raise ValueError("not the line that was written")
    key, cut, grade = entry["key"], entry["cut"], Grade.model_validate(entry["grade"])
    if not isinstance(key, str) or not isinstance(cut, str) or not math.isfinite(damage_of(grade)):
        raise TypeError("key and cut are texts, and what failed is not remembered")
    return key, cut, grade
