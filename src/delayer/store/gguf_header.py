"""What a GGUF file says of itself, read within bounds before any library opens it: every length has to fit into the file.

Format: github.com/ggml-org/ggml docs/gguf.md, versions 2 and 3, little-endian.
"""

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from delayer.errors import WeightsError
from delayer.store.limits import Shapes

MOST = {"tensors": 200_000, "keys": 10_000, "items": 4_000_000, "name": 65_535, "dimensions": 4}
"""More than any network has; such a number is damage."""
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of values that are one number each."""
TEXT, ARRAY = 8, 9


class _Reader:
    """Reads numbers and texts of a file, and no byte more than it has."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.size = file, path, path.stat().st_size

    def bytes(self, num: int) -> bytes:
        if num > self.size - self.file.tell():
            raise self.damaged(f"it speaks of {num:,} bytes where {self.size - self.file.tell():,} are left")
        return self.file.read(num)

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0]

    def count(self, what: str, kind: str = "Q") -> int:
        if (num := self.number(kind)) > MOST[what]:
            raise self.damaged(f"it speaks of {num:,} {what} where {MOST[what]:,} is the most that is believed")
        return num

    def text(self, most: int | None = None) -> str:
        num = self.number("Q")
        if most is not None and num > most:
            raise self.damaged(f"it holds a name of {num:,} bytes")
        return self.bytes(num).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == TEXT:
            return self.text()
        if kind != ARRAY or depth:
            raise self.damaged(f"a value is of the type {kind}, which there is not")
        inner, num = self.number("I"), self.count("items")
        if inner in SCALARS:
            self.bytes(num * struct.calcsize(f"<{SCALARS[inner]}"))
            return None  # long lists of numbers are the tokenizer's
        for _ in range(num):
            self.value(inner, depth + 1)
        return None

    def damaged(self, why: str) -> WeightsError:
        return WeightsError(f"{self.path} is damaged or no GGUF file: {why}. Fetch it again.")


def read_gguf(path: Path, sizes: Mapping[int, tuple[int, int]]) -> tuple[dict[str, Any], Shapes]:
    """The single values of a GGUF file by their key, and type and shape of every tensor, whose bytes all lie in the file.

    sizes: numbers and bytes of one block of each type of tensor, by the type's number.
    Raises WeightsError for what is damaged, or asks for more than the file holds.
    """
    if not path.is_file():
        raise WeightsError(f"There is no GGUF file {path}. Check the path.")
    with path.open("rb") as file:
        reader = _Reader(file, path)
        if reader.bytes(min(4, reader.size)) != b"GGUF":
            raise reader.damaged("it does not begin with GGUF")
        if (version := reader.number("I")) not in (2, 3):
            raise reader.damaged(f"its version is {version}, and 2 and 3 are known")
        num_tensors, num_keys = reader.count("tensors"), reader.count("keys")
        values: dict[str, Any] = {}
        for _ in range(num_keys):
            key = reader.text(MOST["name"])
            values[key] = reader.value(reader.number("I"))
        shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        starts, total = [], 0
        for _ in range(num_tensors):
            name = reader.text(MOST["name"])
            shape = tuple(reader.number("Q") for _ in range(reader.count("dimensions", "I")))
            kind, start = reader.number("I"), reader.number("Q")
            if kind not in sizes:
                raise reader.damaged(f"{name} is of the type {kind}, which there is not")
            if name in shapes:
                raise reader.damaged(f"it holds {name} twice")
            block, size = sizes[kind]
            num_bytes = -(-prod(shape) // block) * size
            total += num_bytes
            starts.append((start + num_bytes, name))
            shapes[name] = (f"GGUF {kind}", shape[::-1])
        left = reader.size - file.tell()
        if total > left or (starts and max(starts)[0] > left):
            raise reader.damaged(f"its tensors need {max(total, max(starts)[0]):,} bytes where {left:,} are left")
    return values, shapes
