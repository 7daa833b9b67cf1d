"""Merging what became linear, where the one layer is measured to be faster."""

from collections.abc import Callable

import torch

from delayer.calling import Inputs
from delayer.chain import Chain
from delayer.edits.fuse import Fuse
from delayer.errors import PlanError
from delayer.fusing import fusions
from delayer.measure import compare_latency
from delayer.study import MergeInfo


def merge_faster_(chain: Chain, example: Inputs, *, batch_size: int = 1, seconds: float = 1.0, seed: int = 0,
                  progress: Callable[[int, int], None] | None = None) -> tuple[tuple[Fuse, ...], tuple[MergeInfo, ...]]:
    """Merge, in place, the linear neighbours whose one layer is faster, and get the edits and what was measured of all.

    Both forms of a merge are timed on the device where the network is, at the batch size that the user runs; it is made
    where the whole interval of the speed-up lies above 1, and the factorised form stays elsewhere. The function does not
    change: each merge was checked in float64 to 1e-10 of the largest output, border included.
    """
    edits, found = [], []
    offered, refused = fusions(chain, example)
    for number, edit in enumerate(offered):
        told = {"path": edit.path, "layers": edit.layers, "repair": edit.repair}
        try:
            forms = edit.forms(chain)
        except PlanError as error:
            found.append(MergeInfo(**told, note=str(error)))
            continue
        x = torch.randn((batch_size, *forms.shape), generator=torch.Generator().manual_seed(seed))
        like = next(chain.model.parameters())
        [time] = compare_latency(forms.factorised, forms.fused, x.to(like.device, like.dtype), (batch_size,),
                                 seconds=seconds, device=like.device, seed=seed)
        faster = time.speedup_interval[0] > 1
        if faster:
            edit.apply_(chain)
            edits.append(edit)
        found.append(MergeInfo(
            **told, error=forms.error, before_ms=time.original_ms, after_ms=time.cut_ms, speedup=time.speedup,
            speedup_interval=time.speedup_interval, merged=faster,
            note="" if faster else "the factorised form is as fast, and stays"))
        if progress:
            progress(number + 1, len(offered))
    found += [MergeInfo(path=one.path, layers=one.layers, note=one.reason) for one in refused]
    return tuple(edits), tuple(found)
