"""Thousands of damaged files, each read by what reads it: how many are refused, read the same, or do what must not be.

    python benchmarks/fuzz.py --cases 5000 --seed 0 --out benchmarks/results/fuzz.txt

A case follows from its number and the seed: `--first 1234 --cases 1` does it again, `--verbose` says all of it. Needs the
extras nas and report. Memory is limited, so that a file that asks for too much is a refusal or a traceback and not a full disk.
"""

import argparse
import importlib.metadata
import os
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import delayer.store.proof  # noqa: E402
from tests import fresh, fuzzing  # noqa: E402
from tests.fuzzed_folders import READERS, Fuzz  # noqa: E402

MEMORY = 24 * 2**30
"""Of addresses, of which torch takes some for itself."""
BAD = ("traceback", "hang", "changed", "import")


def work(numbers: range, seed: int, verbose: bool) -> list[fuzzing.Outcome]:
    """The cases of these numbers, in folders of this process's own."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    delayer.store.proof.subprocess = SimpleNamespace(run=fresh.run)  # a tenth of a second instead of four
    found = []
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz.prepared(Path(folder))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for number in numbers:
            found.append(fuzz.case(number, seed))
            if verbose or found[-1].what in BAD:
                print(f"{found[-1].what}: {found[-1].case}: {found[-1].said[:400]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Damaged files, and what came of reading them.")
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    begin = time.perf_counter()
    shares = [range(asked.first + job, asked.first + asked.cases, asked.jobs) for job in range(asked.jobs)]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        parts = [pool.submit(work, share, asked.seed, asked.verbose) for share in shares]
        found = sorted((one for part in parts for one in part.result()), key=lambda one: int(one.case.partition(":")[0]))
    text = report(found, asked, time.perf_counter() - begin)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n")
    sys.exit(any(one.what in BAD for one in found))


def report(found: list[fuzzing.Outcome], asked: argparse.Namespace, seconds: float) -> str:
    """Counts by outcome, and by reader."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pydantic", "safetensors", "optuna"))
    lines = [
        f"{len(found)} cases from {asked.first}, seed {asked.seed}, {asked.jobs} processes, {seconds:.0f} s; "
        f"Python {platform.python_version()}, {versions}",
        "",
    ]
    counts = Counter(one.what for one in found)
    lines += [f"{what:12} {counts[what]:6}" for what in fuzzing.OUTCOMES]
    lines += ["", f"{'reader':24}" + "".join(f"{what:>11}" for what in fuzzing.OUTCOMES)]
    for name in READERS:
        mine = Counter(one.what for one in found if one.case.split(": ")[1] == name)
        lines.append(f"{name:24}" + "".join(f"{mine[what]:11}" for what in fuzzing.OUTCOMES))
    return "\n".join([*lines, *(f"{one.what}: {one.case}: {one.said[:300]}" for one in found if one.what in BAD)])


if __name__ == "__main__":
    main()
