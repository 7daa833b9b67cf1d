"""RBA's linear map from streamed moments against torch.linalg.lstsq on the stacked activations, both in float64.

    python benchmarks/rba.py --data-root DIR

DeiT-tiny, all tokens of 500 ImageNet images, no bias and no ridge, spans by hand: early, middle, late and all of it.
DIR holds `images` and `weights`. A JSON line a span; exit code 1 when the map or what it predicts differs by more than
1e-6 (Frobenius, relative).
Source: Cannistraci et al., arXiv 2410.04941.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from provenance import provenance
from torch import Tensor

from delayer.families import chain_of
from delayer.fitting.operators.linear import Linear
from delayer.network.chain import Chain, Span
from delayer.observing.one_pass import observe, rows_of
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.store import load
from delayer.tasks import TaskOptions, open_task

SPANS = ("0:1", "1:3", "5:8", "10:12", "0:12")
DIFFERENCE = 1e-6


def stacked(chain: Chain, batches, points: set[int], seed: int) -> dict[int, Tensor]:
    """All rows [n, features] of some points, which `observe` never keeps."""
    found = [rows_of(chain, {Rows(): points}, batch, seed)[Rows()] for batch in batches]
    return {point: torch.cat([rows[point] for rows in found]) for point in points}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    model = load("timm:deit_tiny_patch16_224", weights=given.data_root / "weights/deit_tiny_patch16_224.safetensors")
    options = TaskOptions(num_fit=given.num_images, num_validation=1, num_test=1, seed=given.seed)
    fit = open_task(f"imagefolder:{given.data_root}/images/imagenet_train_1000", model, options).batches("fit")
    chain = chain_of(model)
    ends = {name: chain.ends(Span.parse(name)) for name in SPANS}
    rows = stacked(chain, fit, {point for pair in ends.values() for point in pair}, given.seed)
    begin = time.perf_counter()
    [moments] = observe(chain, fit, [Moments(list(ends.values()), exact=True)], seed=given.seed)
    observe_s, met = time.perf_counter() - begin, True
    for name, (before, after) in ends.items():
        x, y = rows[before].double(), rows[after].double()
        begin = time.perf_counter()
        expected = torch.linalg.lstsq(x, y).solution
        between = time.perf_counter()
        found = Linear().solve(moments.pair(before, after)).weight.T
        end = time.perf_counter()
        values = torch.linalg.svdvals(x)
        difference = float((found - expected).norm() / expected.norm())
        predicted = float((x @ (found - expected)).norm() / (x @ expected).norm())
        ok = max(difference, predicted) <= DIFFERENCE
        met = met and ok
        print(
            json.dumps(
                {
                    "span": name,
                    "num_images": fit.num_samples,
                    "num_rows": len(x),
                    "difference_of_map": difference,
                    "difference_of_predictions": predicted,
                    "condition": float(values[0] / values[-1]),
                    "relative_residual": float((x @ found - y).square().sum() / (y - y.mean(0)).square().sum()),
                    "lstsq_s": between - begin,
                    "solve_s": end - between,
                    "observe_s": observe_s,
                    "met": ok,
                }
                | provenance(given.seed, "timm")
            ),
            flush=True,
        )
    sys.exit(not met)


if __name__ == "__main__":
    main()
