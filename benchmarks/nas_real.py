"""A real, small architecture search on CIFAR-10 with real MSRS: two workers, killed in the middle, resumed, and judged.

    python benchmarks/nas_real.py --data-root DATA

Small NAS-Bench-201 networks (8 channels, two cells a stage, so 9 layers) on the training images; candidates are compared on a
validation part of them. Then every candidate among the most accurate half is trained for longer from scratch, and rank
correlations answer: does low MSRS among about equally accurate candidates go with fewer parameters or with better final
accuracy? Final accuracy is on validation data too; test data is read for the winner alone.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from provenance import provenance

from delayer.nas import NasTaskOptions, ProxyOptions, SearchOptions, SpaceOptions, search
from delayer.nas.data import open_data
from delayer.nas.proxy import PRIME, assess
from delayer.progress import Reporter

SEED, RESAMPLES = 0, 2000


def ranks(values: list[float]) -> torch.Tensor:
    """Ranks from 0, ties averaged."""
    x = torch.tensor(values, dtype=torch.float64)
    return ((x[:, None] > x).double() + 0.5 * (x[:, None] == x).double()).sum(1) - 0.5


def spearman(a: list[float], b: list[float]) -> float:
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    scale = float(x.norm() * y.norm())
    return float(x @ y) / scale if scale else float("nan")


def partial(a: list[float], b: list[float], given: list[float]) -> float:
    """Spearman's correlation of a and b with the ranks of a third taken out: among equals in it."""
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    scale = (1 - ac**2) * (1 - bc**2)
    return (ab - ac * bc) / scale**0.5 if scale > 1e-12 else float("nan")


def with_interval(how, *columns: list[float]) -> str:
    """A correlation and its 95 % percentile bootstrap over candidates."""
    rng, draws = random.Random(SEED), []
    for _ in range(RESAMPLES):
        chosen = [rng.randrange(len(columns[0])) for _ in columns[0]]
        draws.append(how(*([column[i] for i in chosen] for column in columns)))
    draws = sorted(value for value in draws if value == value)
    if not draws:
        return "undefined"
    low, high = draws[int(0.025 * len(draws))], draws[int(0.975 * len(draws))]
    return f"{how(*columns):+.2f} ({low:+.2f} to {high:+.2f}){'' if low <= 0 <= high else ' *'}"


def finally_(
    data: str, space: SpaceOptions, task: NasTaskOptions, proxy: ProxyOptions, epochs: int, slot: int, candidate: str
) -> float:
    """Validation accuracy (%) of a candidate trained anew, in a process of its own with one thread."""
    torch.set_num_threads(1)
    opened = open_data(data, space.open(), task)
    return assess(space.open(), candidate, opened, opened.fit(1.0, SEED), proxy, seed=PRIME * (SEED + 1) + slot, epochs=epochs)[
        0
    ]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = os.environ.get("DELAYER_DATA")
    parser.add_argument("--data-root", type=Path, default=root, required=root is None)
    parser.add_argument("--out", type=Path, default=Path("benchmark-studies/nas"))
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--images", type=int, default=4000, help="training images of a candidate")
    parser.add_argument("--validation", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=4, help="of the short training")
    parser.add_argument("--final-epochs", type=int, default=10, help="of the longer training")
    parser.add_argument("--finalists", type=int, default=20, help="candidates that are trained for longer, most accurate first")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--cells", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    images = Path(given.data_root).resolve() / "images"
    task = NasTaskOptions(num_fit=given.images, num_validation=given.validation, num_test=10_000, batch_size=64, seed=SEED)
    space, proxy = SpaceOptions(width=given.width, cells=given.cells), ProxyOptions(epochs=given.epochs)
    data, test = f"npz:{images / 'cifar10_train20k.npz'}", f"npz:{images / 'cifar10_test.npz'}"

    def run():
        return search(
            data,
            test=test,
            out=given.out,
            strategy="redtest",
            space=space,
            proxy=proxy,
            task=task,
            options=SearchOptions(trials=given.trials, workers=2, threads=1),
            reporter=Reporter(quiet=False),
        )

    if given.worker:
        run()
        return
    begun = time.monotonic()
    first = subprocess.Popen([sys.executable, *sys.argv, "--worker"])
    while first.poll() is None and len(list(given.out.glob("trials/*.safetensors"))) < given.trials // 2:
        time.sleep(0.2)
    killed = first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = len(list(given.out.glob("trials/*.safetensors")))
    print(f"killed (SIGKILL): {killed}, with {before} of {given.trials} candidates trained", flush=True)
    results = run()
    searched = time.monotonic() - begun
    trained = [t for t in results.trials if t.state == "trained"]
    print(
        f"resumed and finished: {len(trained)} trained, {sum(t.state == 'dead' for t in results.trials)} dead, "
        f"{results.num_failed} failed, {searched:.0f} s in all"
    )
    finalists = sorted(trained, key=lambda t: -t.accuracy)[: given.finalists]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {
            t.slot: pool.submit(finally_, data, space, task, proxy, given.final_epochs, t.slot, t.candidate) for t in finalists
        }
    final = {slot: job.result() for slot, job in jobs.items()}
    print(f"\n{'slot':>4} {'short %':>8} {'final %':>8} {'MSRS':>7} {'share':>6} {'parameters':>10} {'ms':>6}  cell")
    for t in finalists:
        marks = "*" * (t.slot == results.winner) + "+" * (t.slot in results.front)
        print(
            f"{t.slot:>4} {t.accuracy:8.2f} {final[t.slot]:8.2f} {t.msrs:7.2f} {t.msrs_share:6.3f} {t.params:10,} "
            f"{t.latency_ms:6.2f}  {t.candidate} {marks}"
        )
    print("* the winner of RedTest's reading, + on the Pareto front\n")
    groups = {
        "all trained": trained,
        f"the {len(finalists)} most accurate": finalists,
        f"the {max(len(finalists) // 2, 4)} most accurate": finalists[: max(len(finalists) // 2, 4)],
    }
    print("Spearman's correlation of MSRS (low = little redundancy) with, and its 95 % interval (* excludes 0)")
    for name, group in groups.items():
        redundancy, short = [t.msrs for t in group], [t.accuracy for t in group]
        other = {"parameters": [t.params for t in group]}
        if all(t.slot in final for t in group):
            other["final accuracy"] = [final[t.slot] for t in group]
        print(f"  {name}: short accuracy {with_interval(spearman, redundancy, short)}")
        for what, values in other.items():
            print(
                f"    {what} {with_interval(spearman, redundancy, values)}; among equals in short accuracy (partial) "
                f"{with_interval(partial, redundancy, values, short)}"
            )
    best, ours = finalists[0], results.trials[results.winner]
    print(
        f"RedTest's reading: {final.get(ours.slot, float('nan')):.2f} % finally at {ours.params:,} parameters; "
        f"best by short training: {final[best.slot]:.2f} % at {best.params:,}."
    )
    print(f"Winner as saved, short training alone, on {results.grade.num_samples:,} test images: {results.grade.value:.2f} %.")
    print(f"{time.monotonic() - begun:.0f} s in all")
    print(json.dumps(provenance(SEED, "optuna")))


if __name__ == "__main__":
    main()
