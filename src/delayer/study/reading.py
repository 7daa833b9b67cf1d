"""Reading files that anybody may have touched: whole, bounded, never waiting, and each fault one sentence."""

import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from delayer.errors import DelayerError, StudyError

MOST_BYTES = 64 * 2**20
"""Of a JSON file; the largest that delayer writes (a scan of a hundred blocks) is a quarter of it."""
MOST_LEVELS = 64
"""Of objects and lists in one another; a network that was cut twenty times over has as many."""
ADVICE = "Restore the file, or delete it and run the stage again."


def read_bytes(path: str | Path, error: type[DelayerError] = StudyError, *, most: int = MOST_BYTES) -> bytes:
    """What an ordinary file holds. Raises `error` for one that is missing or too large, for folders, pipes and devices."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # a pipe must not be waited for
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{path} is no ordinary file but a pipe or a device. Put the file back, or delete it and run again.")
            if found.st_size > most:
                raise error(f"{path} has {found.st_size:,} bytes; files of this kind have {most:,} at most. {ADVICE}")
            return file.read(found.st_size)  # and not what somebody writes behind it meanwhile
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror or problem}). {ADVICE}") from problem
    except ValueError as problem:  # a name with a zero byte
        raise error(f"{str(path)!r} cannot be read ({problem}). Give another name.") from problem


def read_json(path: str | Path, error: type[DelayerError] = StudyError) -> Any:
    """The value in a JSON file. Raises `error` as `read_bytes` and `parsed` do."""
    return parsed(read_bytes(path, error), str(path), error)


def parsed(data: str | bytes, name: str, error: type[DelayerError] = StudyError, *, what: str = "JSON file") -> Any:
    """The value of a JSON text; name, what: for the error, which is raised for what is no JSON, and for keys that occur twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise ValueError(f"the key {shortened(repr(twice), 80)} occurs twice in one object")
        return found

    try:
        value = json.loads(data.decode("utf-8") if isinstance(data, bytes) else data, object_pairs_hook=unique)
    except (ValueError, RecursionError, MemoryError) as problem:
        why = "it is nested too deeply" if isinstance(problem, RecursionError) else shortened(str(problem))
        raise error(f"{name} is not a valid {what}: the file as a whole: {why}. {ADVICE}") from problem
    if _deeper(value, MOST_LEVELS):
        raise error(f"{name} is not a valid {what}: it is nested more than {MOST_LEVELS} deep. {ADVICE}")
    return value


def _deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists lie more than `levels` deep in one another; level by level, so no recursion."""
    inside = [value]
    for _ in range(levels):
        inside = [
            item
            for each in inside
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not inside:
            return False
    return True


def shortened(text: str, most: int = 300) -> str:
    """A text on one line, for an error; its middle is left out where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 4 :]}"


def checksum(value: dict[str, Any]) -> str:
    """Of a JSON object, whatever the order of its keys."""
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def as_lines(values: Iterable[dict[str, Any]]) -> str:
    """A JSON object a line, each with its checksum."""
    return "".join(json.dumps(value | {"crc": checksum(value)}) + "\n" for value in values)


def whole_lines(path: str | Path, error: type[DelayerError] = StudyError) -> Iterator[dict[str, Any] | None]:
    """What `as_lines` wrote to a file; None for each line that a crash or anything else has damaged."""
    for line in read_bytes(path, error).split(b"\n")[:-1]:
        try:
            value = parsed(line, str(path), error)
            crc = value.pop("crc") if isinstance(value, dict) else None
            yield value if crc is not None and crc == checksum(value) else None
        except (DelayerError, KeyError):
            yield None
