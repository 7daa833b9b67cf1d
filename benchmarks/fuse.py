"""Measured speed-up of merged layers beside what the removed multiply-adds promise, and where merging loses.

    python benchmarks/fuse.py [--data-root DIR] [--seconds 2] [--batch-sizes 1 16] [--threads 1]

Each pattern is timed in both forms in one run, round by round in turns (delayer.measure.timing). The factorised form has
its norms folded already, so that the merge alone is measured. `promised` is the ratio of multiply-adds, `speedup` the
median ratio of times with its 95 % interval, `error` the largest difference in float64 on whole images, border included,
relative to the largest output. A JSON line a pattern and batch size; `wins` says which form a caller should keep.
With DIR (it holds `weights`): every inverted residual of the real MobileNetV2, its activations made the identity first
(a ReLU6 is not linear): the merged block against the linearised block in float64, multiply-adds and milliseconds of the
block as it stands, with its norms folded, and merged; and the whole network's outputs.
Exit code 1 when a merge is more than 1e-10 off, or when a transformer's MLP is not at least 1.5 times as fast.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import networks
import torch
from provenance import provenance
from torch import Tensor, nn

from delayer.activations.sites import sites_
from delayer.edits.linearise import Linearise
from delayer.families import chain_of
from delayer.measure.timing import latency
from delayer.merging import LARGEST_ERROR, Part, in_a_row, merge, num_macs, with_shortcut
from delayer.network.calling import evaluating
from delayer.network.chain import Chain
from delayer.search.fusing import fusions
from delayer.store import load

MLP_SPEEDUP = 1.5
Shape = tuple[int, ...]


def lively(*layers: nn.Module) -> list[nn.Module]:
    """Layers whose every number matters: biases are large enough for a wrong border to show."""
    for layer in layers:
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    return list(layers)


def inverted(width: int, stride: int = 1) -> list[nn.Module]:
    wide = 6 * width
    return lively(nn.Conv2d(width, wide, 1), nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.Conv2d(wide, width, 1))


def patterns() -> Iterator[tuple[str, Part, str, Shape]]:
    """Name, layers, repair, shape of one input."""
    for width in (192, 384, 768):
        yield (
            f"MLP {width} → {4 * width} → {width}, 197 tokens",
            in_a_row(*lively(nn.Linear(width, 4 * width), nn.Linear(4 * width, width))),
            "none",
            (197, width),
        )
    for width, size in ((16, 112), (24, 56), (32, 28), (64, 14), (96, 14), (160, 7)):
        for repair in ("constant_channel", "bias_map"):
            yield f"inverted residual {width}", with_shortcut(*inverted(width)), repair, (width, size, size)
    for width, size in ((16, 32), (64, 32), (64, 8), (256, 14)):
        two = lively(nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1))
        moved = lively(nn.Conv2d(width, width, 3, 1, 2), nn.Conv2d(width, width, 3))
        yield f"3×3∘3×3 {width}", in_a_row(*two), "border_strip", (width, size, size)
        yield f"3×3∘3×3 {width}, padding moved first", in_a_row(*moved), "none", (width, size, size)
        yield f"residual block {width}", with_shortcut(*deepcopy(two)), "border_strip", (width, size, size)
    for width, size in ((64, 32), (256, 14)):
        yield (
            f"1×1∘3×3 {width}",
            in_a_row(*lively(nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, 1, 1))),
            "constant_channel",
            (width, size, size),
        )
    for wide, narrow, size in ((96, 16, 56), (384, 64, 14)):
        yield (
            f"project then expand {wide} → {narrow} → {wide}",
            in_a_row(*lively(nn.Conv2d(wide, narrow, 1), nn.Conv2d(narrow, wide, 1))),
            "none",
            (wide, size, size),
        )


def timed(forms: dict[str, nn.Module], x: Tensor, given: argparse.Namespace) -> dict:
    """The first form against each other one."""
    found = latency(forms, x, seconds=given.seconds, threads=given.threads, seed=given.seed, device=given.device)
    first, *others = forms
    numbers = {f"{first}_ms": round(next(iter(found.values())).original_ms, 4)}
    for name in others:
        one = found[name]
        numbers |= {
            f"{name}_ms": round(one.cut_ms, 4),
            f"{name}_speedup": round(one.speedup, 3),
            f"{name}_interval": [round(v, 3) for v in one.speedup_interval],
            f"{name}_rounds": one.num_rounds,
        }
    return numbers


def winner(numbers: dict, name: str) -> str:
    low, high = numbers[f"{name}_interval"]
    return "merged" if low > 1 else "factorised" if high < 1 else "neither"


def synthetic(given: argparse.Namespace) -> Iterator[dict]:
    for name, part, repair, shape in patterns():
        if given.only not in name:
            continue
        merged = merge(part, repair, shape)
        if merged.module is None:
            raise SystemExit(f"{name}: {merged.verdict}")
        before, after = num_macs(part, shape), num_macs(merged.module, shape)
        fused = merged.module.float()
        for batch in given.batch_sizes:
            x = torch.randn(batch, *shape)
            numbers = timed({"factorised": part, "merged": fused}, x, given)
            yield {
                "pattern": name,
                "shape": shape,
                "batch": batch,
                "repair": merged.verdict.repair,
                "error": merged.error,
                "macs": [before, after],
                "promised": round(before / after, 3),
                **numbers,
                "wins": winner(numbers, "merged"),
                "met": merged.error <= LARGEST_ERROR and (not name.startswith("MLP") or numbers["merged_speedup"] >= MLP_SPEEDUP),
            }


def shapes_of(chain: Chain, x: Tensor) -> list[Shape]:
    """The shape of one sample's input to each block."""
    shapes: list[Shape] = []
    handles = [
        chain.module(i).register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[1:])))
        for i in range(chain.num_blocks)
    ]
    with evaluating(chain.model):
        chain.model(x)
    for handle in handles:
        handle.remove()
    return shapes


def mobilenet(given: argparse.Namespace) -> Iterator[dict]:
    model = load(f"{networks.__name__}:mobilenet_v2", weights=given.data_root / "weights/mobilenet_v2_torchvision.safetensors")
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(given.seed)) * 2 - 1
    linear = chain_of(model, x)
    for site in sites_(linear, x):
        Linearise(site=site.path, num_features=site.num_features, axis=site.axis).apply_(linear)
    merged, folded, exact, merged_exact = (linear.copy() for _ in range(4))
    edits = fusions(merged, x)[0]
    proofs = {edit.path: edit.apply_(merged) for edit in edits}
    for chain in (exact, merged_exact):
        chain.model.double()
    for edit in edits:
        edit.apply_(merged_exact)
    for edit in fusions(folded, x, repairs=("none",), most=1.0)[0]:
        edit.apply_(folded)
    whole = compared(exact.model, merged_exact.model, (3, 224, 224))
    for i, shape in enumerate(shapes_of(linear, x)):
        path = linear.blocks[i].path
        forms = {"linearised": linear.module(i), "folded": folded.module(i), "merged": merged.module(i)}
        error = compared(exact.module(i), merged_exact.module(i), shape)
        macs = [num_macs(form, shape) for form in forms.values()]
        for batch in given.batch_sizes:
            numbers = timed(forms, torch.randn(batch, *shape), given)
            yield {
                "network": "MobileNetV2, real weights",
                "block": path,
                "shape": shape,
                "batch": batch,
                "repair": proofs[path].repair if path in proofs else "",
                "error": error,
                "macs": macs,
                "promised": round(macs[0] / macs[2], 3),
                **numbers,
                "wins": winner(numbers, "merged"),
                "met": error <= LARGEST_ERROR,
            }
    for batch in given.batch_sizes:
        numbers = timed(
            {"linearised": linear.model, "folded": folded.model, "merged": merged.model},
            x.expand(batch, -1, -1, -1).contiguous(),
            given,
        )
        macs = [num_macs(form, (3, 224, 224)) for form in (linear.model, folded.model, merged.model)]
        yield {
            "network": "MobileNetV2, real weights",
            "block": "all",
            "batch": batch,
            "error": whole,
            "macs": macs,
            "promised": round(macs[0] / macs[2], 3),
            **numbers,
            "met": whole <= LARGEST_ERROR,
        }


def compared(one: nn.Module, other: nn.Module, shape: Shape) -> float:
    """Largest difference of two float64 modules' outputs, relative to the largest."""
    x = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with evaluating(one), evaluating(other):
        expected = one(x)
        return float((other(x) - expected).abs().max() / expected.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a pattern and batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="nothing but patterns whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    met = True
    sources = [synthetic(given)] + ([mobilenet(given)] if given.data_root and not given.only else [])
    for source in sources:
        for one in source:
            met = met and one["met"]
            print(json.dumps(one, ensure_ascii=False), flush=True)
    print(json.dumps(provenance(given.seed, "torchvision") | {"threads": given.threads, "device": given.device}))
    sys.exit(not met)


if __name__ == "__main__":
    main()
