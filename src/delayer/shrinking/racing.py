"""Merging what became linear, where the one layer is measured to be faster."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from delayer.edits.fuse import Fuse
from delayer.errors import PlanError
from delayer.measure import compare_latency
from delayer.merging import folded
from delayer.merging.reading import rank_of
from delayer.network.calling import Inputs
from delayer.network.chain import Chain
from delayer.search.fusing import fusions
from delayer.study import MergeInfo


def merge_faster_(
    chain: Chain,
    example: Inputs,
    *,
    batch_size: int = 1,
    seconds: float = 1.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Fuse, ...], tuple[MergeInfo, ...]]:
    """Merge, in place, the linear neighbours whose one layer is faster, and get the edits and what was measured of all.

    The one layer is timed against the layers as they would be run without it, their norms folded in, on the device where the
    network is, at the batch size that the user runs. It is made where the whole interval of the speed-up lies above 1; else
    pieces of fewer layers that merge at no more multiply-adds race in their turn, down to norms alone. The function
    does not change: each merge was checked in float64 to 1e-10 of the largest output, border included.
    """
    edits, found = [], []
    todo, refused = fusions(chain, example)
    done = 0
    while todo:
        edit = todo.pop(0)
        common = {"path": edit.path, "layers": edit.layers, "repair": edit.repair}
        try:
            forms = edit.forms(chain)
        except PlanError as error:
            found.append(MergeInfo(**common, note=str(error)))
            continue
        rival = folded(forms.factorised)
        if num_kernels(rival) == 1:  # the folded form is the merge itself
            rival = forms.factorised
        x = torch.randn((batch_size, *forms.shape), generator=torch.Generator().manual_seed(seed))
        like = next(chain.model.parameters())
        [time] = compare_latency(
            rival, forms.fused, x.to(like.device, like.dtype), (batch_size,), seconds=seconds, device=like.device, seed=seed
        )
        faster = time.speedup_interval[0] > 1
        if faster:
            edit.apply_(chain)
            edits.append(edit)
        elif rival is not forms.factorised:
            pieces, _ = fusions(chain, example, repairs=("none",), most=1.0, kernels=num_kernels(rival) - 1, paths=[edit.path])
            todo += [piece for piece in pieces if set(piece.layers) < set(edit.layers)]
        found.append(
            MergeInfo(
                **common,
                error=forms.error,
                before_ms=time.original_ms,
                after_ms=time.cut_ms,
                speedup=time.speedup,
                speedup_interval=time.speedup_interval,
                merged=faster,
                note="" if faster else "the factorised form is as fast, and stays",
            )
        )
        done += 1
        if progress:
            progress(done, done + len(todo))
    found += [MergeInfo(path=one.path, layers=one.layers, note=one.reason) for one in refused]
    return tuple(edits), tuple(found)


def num_kernels(model: nn.Module) -> int:
    """Linear layers and convolutions of a network."""
    return sum(rank_of(module) is not None for module in model.modules())


def merge(chain: Chain, example: Inputs, **more: Any) -> tuple[Chain, tuple[Fuse, ...], tuple[MergeInfo, ...]]:
    """A copy of a chain whose linear neighbours are one layer where that is faster; see `merge_faster_`, which takes the same."""
    copy = chain.copy()
    return copy, *merge_faster_(copy, example, **more)
