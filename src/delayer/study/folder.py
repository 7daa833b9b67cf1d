"""The study folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from delayer.errors import StudyError
from delayer.study.cuts import Candidates
from delayer.study.files import clear_unfinished_, write_atomically
from delayer.study.network import StudyInfo
from delayer.study.record import read_record
from delayer.study.results import Results
from delayer.study.scores import Scan, Scores
from delayer.study.shrinking import Comparison, Shrunk
from delayer.study.sites import Sites


class Study:
    """A folder on disk: scores, scan, plan, weights, results and report; every stage reads and writes it."""

    FILES = {
        "study": ("study.json", StudyInfo, "score"),
        "scores": ("scores.json", Scores, "score"),
        "sites": ("sites.json", Sites, "sites"),
        "scan": ("scan.json", Scan, "scan"),
        "spans": ("spans.json", Scan, "plan"),
        "candidates": ("candidates.json", Candidates, "plan"),
        "shrink": ("shrink.json", Shrunk, "shrink"),
        "compare": ("compare.json", Comparison, "compare"),
        "results": ("results.json", Results, "check"),
    }
    """File, record and the one stage that writes it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise StudyError(f"The study folder {self.folder} is a file. Choose another --out folder.")

    def path(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.folder / name

    def has(self, name: str) -> bool:
        """Whether the record of that name was written."""
        return self.path(self.FILES[name][0]).exists()

    def read(self, name: str) -> Any:
        """The record called `name`. Raises StudyError when it is missing or corrupted."""
        file, kind, stage = self.FILES[name]
        if not self.has(name):
            raise StudyError(f"{self.folder} has no {file}; run `delayer {stage}` (or `delayer run`) first.")
        return read_record(self.path(file), kind)

    def read_or_none(self, name: str) -> Any:
        """The record of that name, or None where it was not written."""
        return self.read(name) if self.has(name) else None

    def write(self, name: str, record: BaseModel) -> None:
        """Write a record under its name, whole or not at all."""
        file, kind, _ = self.FILES[name]
        if not isinstance(record, kind):
            raise TypeError(f"{file} holds a {kind.__name__}, not a {type(record).__name__}.")
        write_atomically(self.path(file), record.model_dump_json(indent=1))

    def discard(self, name: str) -> None:
        """Take away a record that its stage no longer stands for."""
        self.path(self.FILES[name][0]).unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator["Study"]:
        """Hold the folder for this process, cleared of what killed writers left.

        Raises StudyError when another process works in it.
        """
        import fcntl

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.path(".lock"), "a+")
        except OSError as error:
            raise StudyError(
                f"The study folder {self.folder} cannot be written ({error.strerror}). Choose another --out folder."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StudyError(
                    f"Another process works in {self.folder}. Wait for it, or choose another --out folder."
                ) from error
            clear_unfinished_(self.folder)
            yield self
