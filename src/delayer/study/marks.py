""".stages.json: what each stage left in a study folder, and what that was made from.

Each file of a study has one writer. A mark ties what a stage wrote to the network, data and options that it stands for and
to the files that it was made from, so that nobody takes an old file for a new one.
"""

import hashlib
import os
from pathlib import Path
from typing import Literal, NamedTuple

from delayer.errors import StudyError
from delayer.study.files import write_atomically
from delayer.study.folder import Study
from delayer.study.network import StudyInfo
from delayer.study.reading import read_json
from delayer.study.record import Record, read_record

FILE = ".stages.json"
MODEL = "model/delayer.json"
"""Stands for all of model/, whose other files it proves."""
UNTUNED = ".untuned/delayer.json"
"""Stands for the network as it was before it was fine-tuned."""


class Mark(Record):
    """A stage that was finished."""

    key: str
    """Hash over the network, the data, the seed and the options that decide what it wrote."""
    delayer: str
    network: str
    """Fingerprint of the original's weights."""
    data: str
    """Fingerprint of the data and of which samples are where."""
    files: dict[str, str]
    """SHA-256 of each file that it wrote, by the file's path in the folder."""
    reads: dict[str, str] = {}
    """SHA-256 of each file of another stage that they were made from; "" for one that was not there."""


class Marks(Record):
    """All of them, by the stage's name."""

    format: Literal[2] = 2
    stages: dict[str, Mark] = {}


class Doubt(NamedTuple):
    """Why a record is not what the rest of the folder is about, and whether it misleads, so that it is not to be shown."""

    why: str
    misleads: bool


def file_hash(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; "" where there is none, "no file" for a folder, a pipe or a broken link."""
    if not path.is_file():  # a pipe would be waited for
        return "no file" if os.path.lexists(path) else ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def read_marks(study: Study) -> dict[str, Mark]:
    """The marks by stage; none in a folder of a version that kept no hashes. Raises StudyError when the file is damaged."""
    path = study.path(FILE)
    if not os.path.lexists(path) or _is_first_format(path):
        return {}
    return read_record(path, Marks).stages


def _is_first_format(path: Path) -> bool:
    try:
        found = read_json(path)
    except StudyError:
        return False
    return isinstance(found, dict) and "format" not in found and all(isinstance(key, str) for key in found.values())


def write_mark(study: Study, stage: str, mark: Mark) -> None:
    """Keep a mark beside those of the other stages."""
    marks = Marks(stages=read_marks(study) | {stage: mark})
    write_atomically(study.path(FILE), marks.model_dump_json(indent=1))


def doubts(study: Study, info: StudyInfo | None) -> dict[str, Doubt]:
    """Which records do not belong to what else lies in the folder, by the record's name.

    info: study.json. Records without a mark, such as those of older versions, are not doubted.
    """
    marks, found = read_marks(study), {}
    for name, (file, _, stage) in study.FILES.items():
        if name == "study" or not (mark := marks.get(stage)):  # study.json says what all others are held against
            continue
        if not study.has(name) and file in mark.files:
            found[name] = Doubt(f"{file}, which `{stage}` wrote, is gone. Run `delayer {stage}` again.", False)
        elif study.has(name) and (doubt := _doubt(study, mark, stage, file, info)):
            found[name] = doubt
    return found


def _doubt(study: Study, mark: Mark, stage: str, file: str, info: StudyInfo | None) -> Doubt | None:
    again = f"Run `delayer {stage}` again"
    now = {path: file_hash(study.path(path)) for path in {*mark.files, *mark.reads}}
    if info and mark.network != info.provenance.model_hash:
        return Doubt(f"{file} is of a network with other weights than the one that the study is about now. {again}.", True)
    if file not in mark.files:
        return Doubt(f"{file} was left by an earlier `{stage}`, or by one that did not end. {again}.", True)
    if now[file] != mark.files[file]:
        return Doubt(f"{file} was changed after `{stage}` wrote it. {again} for what it found.", False)
    made = {path for path, known in mark.files.items() if now[path] != known}
    if MODEL in made and file_hash(study.path(UNTUNED)) == mark.files[MODEL]:
        made.remove(MODEL)
    if made := made or {path for path, known in mark.reads.items() if now[path] != known}:
        return Doubt(f"{file} tells of another {_named(made)} than the one that lies here now. {again}.", True)
    if "plan.json" in mark.files and file_hash(study.path("model/plan.json")) not in ("", mark.files["plan.json"]):
        return Doubt(f"{file} belongs to plan.json, but the network in model/ was made by another plan.", True)
    if info and mark.data != info.provenance.data_hash:
        return Doubt(f"{file} was made on other data, or on other samples of it, than study.json states. {again}.", False)
    return None


def _named(paths: set[str]) -> str:
    return " and ".join("network in model/" if path == MODEL else path for path in sorted(paths))
