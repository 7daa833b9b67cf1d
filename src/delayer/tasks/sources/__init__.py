"""Where data comes from: one file a source, each under the name that the command line calls it by.

A source is a function `(path, part, options, model) -> Samples`, where `part` is what follows '#'. Adding one
is adding one file that registers it.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from delayer.errors import DataError
from delayer.registry import Registry
from delayer.tasks.options import TaskOptions


@dataclass
class Samples:
    """Random access to what a source holds, as it lies there; nothing is decoded before it is asked for.

    content: "images" (PIL images, or arrays [h, w] and [h, w, 3] of uint8 or of floats in 0..1), "arrays" (as
    the network takes them), "texts", or "tokens" (pieces of one long text).
    get: the i-th of them. num: how many.
    fingerprint: changes when the data changes.
    labels: [n] class numbers. class_names: what class k is called; None where numbers are the head's own.
    name_of: what to call the i-th sample in an error.
    preprocessing: mean and std that these images want where nothing else states them.
    notes: what went on, to be told to the user.
    """

    content: Literal["images", "arrays", "texts", "tokens"]
    num: int
    get: Callable[[int], Any]
    fingerprint: str
    labels: Tensor | None = None
    class_names: tuple[str, ...] | None = None
    name_of: Callable[[int], str] = "sample {}".format
    preprocessing: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    pools: dict[str, range] | None = None
    """The rows that each part is drawn from, where the source has splits of its own; all for each part by default."""
    drawn: dict[str, str] | None = None
    """For each part the split of the source that it is drawn from, by the name that stands behind '#'."""


Source = Callable[[str, str | None, TaskOptions, nn.Module], Samples]
sources: Registry[Source] = Registry("data source", "delayer.tasks.sources")


def spec_parts(spec: str) -> tuple[str, str, str | None]:
    """Kind, path and part of KIND:PATH#PART; the path may hold blanks, colons and # itself.

    Where the whole path exists there is no part, else the last # divides.
    """
    kind, _, path = spec.partition(":")
    try:
        whole = "#" not in path or Path(path).exists()
    except (OSError, ValueError):  # longer than any name, or with a zero byte
        whole = False
    before, _, part = path.rpartition("#")
    return (kind, path, None) if whole else (kind, before, part or None)


def existing(path: str) -> Path:
    """The path. Raises DataError when nothing is there, and for a pipe or a device, which may never end."""
    if not Path(path).exists():
        raise DataError(f"There is no file or folder {path!r}. Check the path (it is relative to {Path.cwd()}).")
    if not (Path(path).is_file() or Path(path).is_dir()):
        raise DataError(f"{path} is a pipe or a device, which may never end. Give a file or a folder.")
    return Path(path)


def read_text(path: str) -> str:
    """What a text file holds. Raises DataError when it cannot be read or is not UTF-8."""
    try:
        return existing(path).read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}). Give a UTF-8 file.") from error


def no_part(part: str | None, path: str) -> None:
    """Raises DataError when a part was asked of a source that has none."""
    if part is not None:
        raise DataError(f"#{part} was asked of {path!r}, which has no named parts. Leave #{part} out.")


def fingerprint(*parts: bytes | str) -> str:
    """SHA-256 of some contents in a row."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def fingerprint_of_files(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 of the names and sizes of files."""
    return fingerprint(*(f"{file.relative_to(root)} {file.stat().st_size}" for file in files))
