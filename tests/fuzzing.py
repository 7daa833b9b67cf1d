"""Damage for files, drawn from a seed, and what came of reading them. Which folders are read how: fuzzed_folders.py."""

import copy
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

from delayer.errors import DelayerError

OUTCOMES = ("same", "refused", "said", "edited", "traceback", "hang", "changed", "import")
"""same: the answer of the undamaged folder. refused: one sentence. said: an answer beside a sentence about the file.
edited: another valid answer of a file that is the user's to edit. The rest must not be."""
HOSTILE = ("os:system", "hostile_module:run", "subprocess:Popen", "builtins:eval", "../../../etc/passwd", "__import__('os')")
DEEP = "\x00deep\x00"
VALUES = (
    None,
    True,
    False,
    "",
    [],
    {},
    -1,
    0,
    1,
    1.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    10**30,
    10**9,
    10**12,
    "x",
    "y" * 100_000,
    "\ud800",
    DEEP,
    [[]],
    {"": None},
    "NaN",
    "1",
    *HOSTILE,
)


# Bytes


def flip(data: bytes, rng: Random) -> bytes:
    if not data:
        return b"\x01"
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def cut_short(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def swap(data: bytes, rng: Random) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def double(data: bytes, rng: Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def drop(data: bytes, rng: Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:]


def no_text(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice((b"\xff\xfe", b"\xc3", b"\x00" * 9, b"\xed\xa0\x80")) + data[place:]


BYTES = (
    flip,
    flip,
    flip,
    cut_short,
    swap,
    double,
    drop,
    no_text,
    lambda data, rng: b"",
    lambda data, rng: b"\x00" * len(data),
    lambda data, rng: b"[" * 100_000,
    lambda data, rng: data + data,
)


# Values of JSON


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def changed_value(value: Any, rng: Random) -> tuple[Any, str]:
    """A copy with one value changed, and what was done."""
    value = copy.deepcopy(value)
    if not (every := list(places(value))):
        return rng.choice(VALUES), "replaced all"
    *path, key = rng.choice(every)
    there = value
    for step in path:
        there = there[step]
    old, how = there[key], rng.randrange(10)
    if how == 0:
        del there[key]
        done = "deleted"
    elif how == 1 and isinstance(there, dict):
        there[rng.choice((f"{key}_", "hostile", key.upper()))] = there.pop(key)
        done = "renamed"
    elif how == 2 and isinstance(there, dict):
        there[f"\x01{key}"] = rng.choice(VALUES[:16])
        done = "given twice"
    elif how == 3 and isinstance(old, list) and old:
        there[key] = rng.choice((old[::-1], old + old, old[:-1], old[1:], [old]))
        done = "another list"
    elif how in (4, 5) and isinstance(old, int | float):
        there[key] = rng.choice((old + 1, old - 1, -old, old * 1_000_000, old / 2, not old, str(old)))
        done = "another number"
    elif how == 6 and isinstance(old, str) and old:
        there[key] = rng.choice((old[:-1], old + old, old[::-1], old + "\n", f"../{old}", old.upper()))
        done = "another text"
    else:
        there[key] = rng.choice(VALUES)
        done = f"became {str(there[key])[:30]!r}"
    return value, f"{'.'.join(map(str, (*path, key)))} {done}"


def as_text(value: Any) -> bytes:
    """JSON, with what Python does not write: keys that occur twice, and nesting without an end."""
    text = json.dumps(value, indent=1, ensure_ascii=True).replace('"\\u0001', '"')
    return text.replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


def damaged_json(data: bytes, rng: Random) -> tuple[bytes, str]:
    value, done = changed_value(json.loads(data), rng)
    return as_text(value), done


def damaged_lines(data: bytes, rng: Random) -> tuple[bytes, str]:
    """One line of JSON lines, or the lines themselves."""
    lines = data.splitlines(keepends=True)
    number = rng.randrange(len(lines))
    if rng.random() < 0.2:
        return b"".join(lines[:number] + lines[number + 1 :]) if rng.random() < 0.5 else data + lines[number], f"line {number}"
    value, done = changed_value(json.loads(lines[number]), rng)
    lines[number] = as_text(value).replace(b"\n", b"") + b"\n"
    return b"".join(lines), f"line {number}: {done}"


def damaged_tensors(data: bytes, rng: Random) -> tuple[bytes, str]:
    """The header of a safetensors file, or its numbers."""
    length = int.from_bytes(data[:8], "little")
    header, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    how = rng.randrange(5)
    names = [name for name in header if name != "__metadata__"]
    if how == 0:
        return rng.choice((2**63, 2**40, len(data), 0, length + 1)).to_bytes(8, "little") + data[8:], "header's length"
    if how == 1 and len(names) > 1:
        one, two = rng.sample(names, 2)
        header[one], header[two] = header[two], header[one]
        done = f"{one} and {two} swapped"
    elif how == 2 and numbers:
        place = rng.randrange(len(numbers) // 4) * 4
        numbers = numbers[:place] + rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f")) + numbers[place + 4 :]
        done = "NaN or infinity"
    elif how == 3 and numbers:
        return data[: 8 + length] + flip(numbers, rng), "a bit of a number"
    else:
        header, done = changed_value(header, rng)
    text = as_text(header)
    return len(text).to_bytes(8, "little") + text + numbers, done


def damage_(path: Path, rng: Random) -> str:
    """Damage a file in place, and say how."""
    how = rng.random()
    if how < 0.04:
        path.unlink()
        what = rng.choice(("gone", "folder", "pipe", "loop", "large"))
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        elif what == "loop":
            path.symlink_to(path)
        elif what == "large":
            with path.open("wb") as file:
                file.truncate(2 * 2**30)
        return what
    data = path.read_bytes()
    if how > 0.3:
        try:
            kind = {".json": damaged_json, ".jsonl": damaged_lines, ".journal": damaged_lines, ".safetensors": damaged_tensors}
            new, done = kind[path.suffix](data, rng)
            path.write_bytes(new)
            return done
        except (KeyError, IndexError, OverflowError):
            pass
    way = rng.choice(BYTES)
    path.write_bytes(way(data, rng))
    return way.__name__


# What comes of it


class TookTooLong(BaseException):
    """No `except Exception` on the way may swallow it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_):
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_seen: list[str] = []
_watching = [False]
OURS = ("delayer.store.proof", "delayer.nas")
"""Modules that new processes of delayer's own run."""


def _hook(event: str, arguments: tuple) -> None:
    if not _watching[0]:
        return
    if event == "import" and str(arguments[0]).partition(".")[0] in ("hostile_module", "this", "antigravity"):
        _seen.append(f"import {arguments[0]}")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "os.spawn") or (
        event == "subprocess.Popen" and not any(str(word) in OURS for word in arguments[1] or ())
    ):
        _seen.append(f"{event} {str(arguments)[:80]}")


@contextmanager
def watched() -> Iterator[list[str]]:
    """Inside: what was imported by a hostile name, and what was started, in a list."""
    if not getattr(sys, "_delayer_fuzz_hook", False):
        sys.addaudithook(_hook)
        sys._delayer_fuzz_hook = True
    _seen.clear()
    _watching[0] = True
    try:
        yield _seen
    finally:
        _watching[0] = False


def alike(one: Any, two: Any) -> bool:
    """Whether two answers are the same, floats to a ten-thousandth."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(alike(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    if isinstance(one, float) and isinstance(two, float | int):
        return math.isclose(one, two, rel_tol=1e-4, abs_tol=1e-4) or (math.isnan(one) and math.isnan(two))
    return one == two


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    case: str
    what: str
    """One of OUTCOMES."""
    said: str = ""


def outcome(
    read: Callable[[], tuple[Any, str]], expected: tuple[Any, str], *, case: str, editable: bool, seconds: float
) -> Outcome:
    """Read a damaged folder. read: gives the answer, and what was said of the files on the way.

    expected: what it gives for the undamaged folder. Raises what a reader raises only where that is a KeyboardInterrupt.
    """
    with watched() as seen, redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with limited(seconds):
                answer, said = read()
        except TookTooLong:
            return Outcome(case, "hang")
        except DelayerError as error:
            bad = "\n" in str(error).strip() or len(str(error)) > 3000
            return Outcome(case, "import" if seen else "traceback" if bad else "refused", f"{'; '.join(seen)}{error}")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return Outcome(case, "traceback", f"{type(error).__name__}: {error}")
        if seen:
            return Outcome(case, "import", "; ".join(seen))
    if alike(answer, expected[0]):
        return Outcome(case, "same", said)
    if editable:
        return Outcome(case, "edited", said)
    return Outcome(case, "said" if said != expected[1] else "changed", said)
