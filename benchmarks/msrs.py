"""MSRS against the values of its paper's networks, and how much faster all pairs of layers are at once than pair by pair.

    python benchmarks/msrs.py [--data-root DIR]

Speed: 55 layers of a stream of width 64, 256 samples. Pair by pair means the formula as it is written,
HSIC(K, L) = [tr KL + (1ᵀK1)(1ᵀL1)/((n−1)(n−2)) − 2/(n−2)·1ᵀKL1] / (n(n−3)), for each of the 1,540 pairs i ≤ j, in the
same dtype; the rounds of the two ways alternate. A JSON line a dtype.
Values: with DIR (it holds `images` and `weights`) the score of ResNet-20, -32 and -56 on the first three batches of 256
CIFAR-10 test images, the similarity of neighbouring layers of ResNet-56 over ten batches beside the published vector
(`reference/redtest.json` beside DIR), and the blocks that RedTest would keep. A JSON line a network.
Exit code 1 when the speedup is under 30, a similarity is more than 1e-5 off, a score more than 0.3, or the vector more
than 0.003 on average.
Source: Lu et al. 2024 (RedTest), arXiv 2411.10507.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import networks
import torch
from provenance import provenance
from torch import Tensor

from delayer.families import chain_of
from delayer.metrics.blocks.cka import cka_of
from delayer.network.chain import Chain
from delayer.observing.stats.hsic import hsic_of
from delayer.search.methods.redtest import kept_layers
from delayer.search.scoring import score
from delayer.store import load
from delayer.study import Score
from delayer.tasks.splits import Batch

NUM_LAYERS, BATCH, WIDTH = 55, 256, 64
SPEEDUP, DIFFERENCE, SCORE_OFF, VECTOR_OFF = 30.0, 1e-5, 0.3, 0.003
EXPECTED = {"cifar_resnet20": 12.69, "cifar_resnet32": 55.07, "cifar_resnet56": 174.15}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def literal_hsic(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased HSIC of two layers [n, width], as the formula is written."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    k, m = k.fill_diagonal_(0), m.fill_diagonal_(0)
    product = k @ m
    return (product.trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * product.sum()) / (n * (n - 3))


def pair_by_pair(features: list[Tensor]) -> Tensor:
    hsic = torch.zeros(len(features), len(features), dtype=torch.float64)
    for i, x in enumerate(features):
        for j, y in enumerate(features[: i + 1]):
            hsic[i, j] = hsic[j, i] = literal_hsic(x, y)
    return hsic


def seconds(run: Callable) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def speed(dtype: torch.dtype, seed: int, rounds: int) -> dict:
    draw = torch.Generator().manual_seed(seed)
    features = [torch.randn(BATCH, WIDTH, generator=draw, dtype=torch.float64)]
    for _ in range(NUM_LAYERS - 1):
        features.append(0.95 * features[-1] + 0.3 * torch.randn(BATCH, WIDTH, generator=draw, dtype=torch.float64))
    features = [x.to(dtype) for x in features]
    both = [(seconds(lambda: pair_by_pair(features)), seconds(lambda: hsic_of(features))) for _ in range(rounds + 1)]
    slow, fast = zip(*both[1:], strict=True)  # the first round warms up
    apart = float((cka_of(hsic_of(features)) - cka_of(pair_by_pair(features))).abs().max())
    ratio = statistics.median(s / f for s, f in both[1:])
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "layers": NUM_LAYERS,
        "batch": BATCH,
        "pair_by_pair_ms": 1e3 * statistics.median(slow),
        "all_pairs_ms": 1e3 * statistics.median(fast),
        "speedup": ratio,
        "max_difference": apart,
        "rounds": rounds,
        "met": ratio >= SPEEDUP and apart <= DIFFERENCE,
    }


def batches(root: Path, num: int) -> list[Batch]:
    """The first batches of the test images."""
    import numpy as np

    x = torch.from_numpy(np.load(root / "images/cifar10_test.npz")["x"][: num * BATCH]).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return [Batch(part, None, k * BATCH) for k, part in enumerate(x.split(BATCH))]


def judged(root: Path, name: str, num: int) -> tuple[Chain, dict[str, Score]]:
    data = batches(root, num)
    model = load(f"{networks.__name__}:{name}", weights=root / f"weights/{name}.safetensors")
    chain = chain_of(model, data[0].inputs[:2])
    return chain, {one.name: one for one in score(chain, data, ["msrs", "adjacent_similarity"])}


def value(root: Path, name: str) -> dict:
    numbers = judged(root, name, 3)[1]["msrs"].named
    return {"network": name, **numbers, "expected": EXPECTED[name], "met": abs(numbers["score"] - EXPECTED[name]) <= SCORE_OFF}


def neighbours(root: Path) -> dict:
    """ResNet-56's similarities of neighbours beside the published ones, and what each vector keeps."""
    published = json.loads((root.parent / "reference/redtest.json").read_text())["resnet56_cifar10_adjacent_cka"]
    _, scores = judged(root, "cifar_resnet56", 10)
    found = scores["adjacent_similarity"].values
    off = [abs(a - b) for a, b in zip(found, published, strict=True)]
    stages = [range(9), range(9, 18), range(18, 27)]
    kept = {
        who: [[k - stage[0] for k in kept_layers(vector, stages, 13) if k in stage] for stage in stages]
        for who, vector in (("found", found), ("published", published))
    }
    return {
        "network": "cifar_resnet56",
        "adjacent_similarity": [round(a, 6) for a in found],
        "mean_difference": statistics.fmean(off),
        "max_difference": max(off),
        "kept": kept,
        "met": statistics.fmean(off) <= VECTOR_OFF,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    met = True
    runs = [lambda dtype=dtype: speed(dtype, given.seed, given.rounds) for dtype in (torch.float32, torch.float64)]
    if given.data_root:
        runs += [lambda name=name: value(given.data_root, name) for name in EXPECTED]
        runs.append(lambda: neighbours(given.data_root))
    for run in runs:
        one = run()
        met = met and one["met"]
        print(json.dumps(one | provenance(given.seed)), flush=True)
    sys.exit(not met)


if __name__ == "__main__":
    main()
