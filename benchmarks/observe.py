"""What one observing pass costs beside plain forward passes of the same batches, and that its memory stays flat.

    python benchmarks/observe.py [--data-root DIR]

A 12-block ViT (DeiT-tiny's architecture, width 192) on the CPU in batches of 32. Passes take turns with plain ones in
the same process, so that a busy machine slows both; ratios are medians over rounds. Kinds of pass:

first and mean    what scoring reads: distances of the class token, HSIC of means, moments of all pairs under both rows
quarter           moments of all pairs on a quarter of the tokens
all tokens        moments of all pairs on every token

Then the price of the quarter: how much more held-out error (on all tokens of other images) the affine maps fitted on
it have, the worst of all 78 spans; and peak memory with ten times as many images, in processes of their own.
Random weights and random images, or with --data-root (a folder that holds `images` and `weights`) real ones.
A JSON line a measurement; exit code 1 when a bound is missed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from provenance import provenance

from delayer.families import chain_of
from delayer.fitting.affine import RIDGES, Fits
from delayer.fitting.operators.affine import Affine
from delayer.network.calling import call, evaluating
from delayer.network.chain import Chain
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows
from delayer.observing.stats import Geometry, Hsic, Moments, Stat
from delayer.observing.stats.pair import relative_residual
from delayer.store import load
from delayer.tasks import TaskOptions, open_task
from delayer.tasks.splits import Batch, Split

BATCH_SIZE = 32
QUARTER = Rows("each", 0.25)
BOUNDS = {"first and mean": 1.15, "quarter": 1.35, "all tokens": 2.2}
MORE_ERROR, MORE_MEMORY = 0.02, 0.05


def network(data_root: Path | None, seed: int) -> Chain:
    import timm

    if data_root:
        weights = data_root / "weights/deit_tiny_patch16_224.safetensors"
        return chain_of(load("timm:deit_tiny_patch16_224", weights=weights))
    torch.manual_seed(seed)
    return chain_of(timm.create_model("deit_tiny_patch16_224").eval())


def noise(num_images: int, seed: int) -> Split:
    """Random images, made when they are asked for."""

    def draw(rows: range) -> tuple[torch.Tensor, None]:
        return torch.randn(len(rows), 3, 224, 224, generator=torch.Generator().manual_seed(seed + rows.start)), None

    return Split("fit", "image-classification", num_images, BATCH_SIZE, draw)


def images(chain: Chain, data_root: Path | None, num_images: int, seed: int) -> tuple[Split, Split]:
    """To fit on, and held out."""
    if data_root is None:
        return noise(num_images, seed), noise(num_images, seed + 10**6)
    options = TaskOptions(num_fit=num_images, num_validation=num_images, num_test=1, batch_size=BATCH_SIZE, seed=seed)
    task = open_task(f"imagefolder:{data_root}/images/imagenet_train_1000", chain.model, options)
    return task.batches("fit"), task.batches("validation")


def stats_of(chain: Chain) -> dict[str, Callable[[], list[Stat]]]:
    """New statistics for each kind of pass."""
    [segment] = chain.segments
    everywhere = [segment.points]
    return {
        "first and mean": lambda: [
            Geometry(everywhere, Rows("first"), chain.num_points),
            Hsic(range(chain.num_points), Rows("mean")),
            Moments(everywhere, Rows("first")),
            Moments(everywhere, Rows("mean")),
        ],
        "quarter": lambda: [Moments(everywhere, QUARTER)],
        "all tokens": lambda: [Moments(everywhere, Rows())],
    }


def time_passes(chain: Chain, batches: Sequence[Batch], rounds: int, seed: int) -> list[dict]:
    """Each kind of pass, taking turns with plain ones on either side."""

    def plain() -> None:
        with evaluating(chain.model):
            for batch in batches:
                call(chain.model, batch.inputs)

    def seconds(run: Callable) -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    ratios, plains, kinds = {kind: [] for kind in BOUNDS}, [], stats_of(chain)

    def watched(kind: str) -> None:
        for stat in observe(chain, batches, kinds[kind](), seed=seed):
            stat.state()  # rows that still wait are worked off

    plain()
    for _ in range(rounds):
        before = seconds(plain)
        for kind in BOUNDS:
            observed = seconds(lambda kind=kind: watched(kind))
            after = seconds(plain)
            ratios[kind].append(2 * observed / (before + after))
            plains.append(after)
            before = after
    return [
        {
            "measured": f"time of a pass: {kind}",
            "ratio": statistics.median(ratios[kind]),
            "quartiles": statistics.quantiles(ratios[kind], n=4)[::2],
            "bound": bound,
            "rounds": rounds,
            "plain_s": statistics.median(plains),
            "num_images": sum(map(len, batches)),
            "met": statistics.median(ratios[kind]) <= bound,
        }
        for kind, bound in BOUNDS.items()
    ]


def price_of_a_quarter(chain: Chain, fit: Split, heldout: Split, seed: int) -> dict:
    """Held-out residual of maps fitted on a quarter of the tokens, beside that of maps fitted on all."""
    [segment] = chain.segments
    share, whole = observe(chain, fit, [Moments([segment.points], rows) for rows in (QUARTER, Rows())], seed=seed)
    some, held = observe(chain, heldout, [Moments([segment.points], rows) for rows in (QUARTER, Rows())], seed=seed)
    more = {}
    for span in chain.spans():
        ends, residuals = chain.ends(span), []
        for fitted, judge in ((share, some), (whole, held)):  # each with the ridge that its own rows choose
            pair = fitted.pair(*ends)
            fits = Fits(pair)
            ridge = fits.best_ridge(pair, judge.pair(*ends), RIDGES)
            weight, bias, _ = Affine(ridge=ridge).solve(pair, fits)
            residuals.append(relative_residual(held.pair(*ends), weight, bias))
        more[str(span)] = residuals[0] / residuals[1] - 1
    worst = max(more, key=more.get)
    return {
        "measured": "held-out residual of a quarter of the tokens over all tokens', less one",
        "worst": more[worst],
        "worst_span": worst,
        "median": statistics.median(more.values()),
        "bound": MORE_ERROR,
        "num_images": fit.num_samples,
        "met": more[worst] <= MORE_ERROR,
    }


def peak_memory_mib(num_images: int, seed: int) -> float:
    """Of a process that watches so many random images with every kind of statistic but those on all tokens."""
    chain = network(None, seed)
    kinds = stats_of(chain)
    observe(chain, noise(num_images, seed), [*kinds["first and mean"](), *kinds["quarter"]()], seed=seed)
    if (status := Path("/proc/self/status")).exists():  # getrusage would count what the parent held as well
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def flatness(num_images: int, seed: int) -> dict:
    """Peak memory of two processes, one of which watches ten times as many images.

    glibc's allocator is told to give large blocks back when they are freed. Left alone it keeps some, plain forward
    passes alike, and how many is chance: two runs on the same images then differ by more than the bound.
    """
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_ARENA_MAX": "1"}
    peaks = []
    for num in (num_images, 10 * num_images):
        command = [sys.executable, __file__, "--peak-memory", str(num), "--seed", str(seed)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        peaks.append(float(done.stdout))
    return {
        "measured": "peak memory with ten times as many images",
        "ratio": peaks[1] / peaks[0],
        "peaks_mib": peaks,
        "num_images": [num_images, 10 * num_images],
        "bound": 1 + MORE_MEMORY,
        "met": peaks[1] / peaks[0] <= 1 + MORE_MEMORY,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--num-images", type=int, default=320, help="images to fit on, and as many held out")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak-memory", type=int, help="only watch so many images and print the peak memory, MiB")
    given = parser.parse_args()
    if given.peak_memory:
        print(peak_memory_mib(given.peak_memory, given.seed))
        return
    chain = network(given.data_root, given.seed)
    fit, heldout = images(chain, given.data_root, given.num_images, given.seed)
    met = True
    for measure in (
        lambda: time_passes(chain, [fit[k] for k in range(3)], given.rounds, given.seed),
        lambda: [price_of_a_quarter(chain, fit, heldout, given.seed)],
        lambda: [flatness(5 * BATCH_SIZE, given.seed)],
    ):
        for found in measure():
            met = met and found["met"]
            weights = "trained" if given.data_root else "random"
            print(json.dumps(found | {"weights": weights} | provenance(given.seed, "timm")), flush=True)
    sys.exit(not met)


if __name__ == "__main__":
    main()
