"""How much faster all pairs of CKA are at once than pair by pair, and that the numbers are the same.

    python benchmarks/cka.py

512 samples of the 13 points of a 12-block ViT of width 192. Pair by pair means: for each of the 91 pairs i ≤ j form
and centre two Gram matrices and take their product, in the same dtype. A JSON line a dtype; exit code 1 when the
speedup is under 10, or when a number is more than 1e-6 off what pair by pair gives in double precision (in single
precision the pair-by-pair form itself is off by more).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from provenance import provenance
from torch import Tensor

from delayer.metrics.blocks.cka import cka_of
from delayer.observing.stats.hsic import hsic_of

SPEEDUP, DIFFERENCE = 10.0, 1e-6


def centred(gram: Tensor) -> Tensor:
    """The U-centred Gram matrix, as the formula is written."""
    n = len(gram)
    gram = gram - torch.diag(torch.diag(gram))
    row = gram.sum(0)
    gram = gram - (row[:, None] + row[None]) / (n - 2) + row.sum() / ((n - 1) * (n - 2))
    return gram - torch.diag(torch.diag(gram))


def pair_by_pair(features: list[Tensor]) -> Tensor:
    """HSIC [points, points], two Gram matrices a pair."""
    n = len(features[0])
    hsic = torch.zeros(len(features), len(features), dtype=torch.float64)
    for i, x in enumerate(features):
        for j, y in enumerate(features[: i + 1]):
            hsic[i, j] = hsic[j, i] = (centred(x @ x.T) * centred(y @ y.T)).sum() / (n * (n - 3))
    return hsic


def seconds(run: Callable) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def compare(dtype: torch.dtype, seed: int, rounds: int) -> dict:
    draw = torch.Generator().manual_seed(seed)
    features = [torch.randn(512, 192, generator=draw, dtype=dtype)]
    for _ in range(12):  # a residual stream with a mean, as real ones have
        features.append(features[-1] + 0.5 * torch.randn(512, 192, generator=draw, dtype=dtype) + 0.1)
    both = [(seconds(lambda: pair_by_pair(features)), seconds(lambda: hsic_of(features))) for _ in range(rounds + 1)]
    slow, fast = zip(*both[1:], strict=True)  # the first round warms up
    exact = cka_of(pair_by_pair([x.double() for x in features]))
    errors = [float((cka_of(way(features)) - exact).abs().max()) for way in (hsic_of, pair_by_pair)]
    speedup = statistics.median(s / f for s, f in both[1:])
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "pair_by_pair_ms": 1e3 * statistics.median(slow),
        "all_pairs_ms": 1e3 * statistics.median(fast),
        "speedup": speedup,
        "max_error": errors[0],
        "max_error_pair_by_pair": errors[1],
        "rounds": rounds,
        "met": speedup >= SPEEDUP and errors[0] <= DIFFERENCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = [compare(dtype, given.seed, given.rounds) for dtype in (torch.float32, torch.float64)]
    for one in found:
        print(json.dumps(one | provenance(given.seed)))
    sys.exit(not all(one["met"] for one in found))


if __name__ == "__main__":
    main()
