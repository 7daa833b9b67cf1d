"""Rows of a fit, some of which are kept out of it while its ridge is chosen."""

from typing import Any

import torch
from torch import Tensor

from delayer.errors import NotFiniteError
from delayer.observing.rows import Rows, chosen
from delayer.observing.stats.patch_moments import PatchMoments

HELD_OUT = 5
"""Every fifth sample is kept out of a fit while its ridge is chosen; the last fit uses all."""


def add_held_out(
    batch: Any,
    x: Tensor,
    y: Tensor,
    fit: PatchMoments,
    heldout: PatchMoments | None,
    *,
    rows: Rows,
    seed: int,
    some: Tensor | None = None,
) -> None:
    """Add what a layer reads on a batch and what it should answer to one set of moments or, every fifth sample, to the other.

    heldout: None where nothing is to be chosen; then all samples are added to `fit`.
    rows: which positions count; padding never does. some: which of them may count [.., positions], all for None.
    Raises NotFiniteError.
    """
    num = y[0, 0].numel() if fit.window is not None else y[0].numel() // y.shape[-1]
    if not torch.isfinite(y.sum()) and not torch.isfinite(y).all():
        raise NotFiniteError("NaN or infinity in what a layer should answer. Check the weights and the data.")
    mask = batch.mask_for(num)
    ids = torch.arange(batch.start, batch.start + len(batch))
    index = chosen(rows, ids, num, mask, seed)
    keep = None
    if index is not None:
        keep = torch.zeros(len(ids) * num, dtype=torch.bool)
        keep[index] = True
        keep = keep.view(len(ids), num).to(x.device)
    if some is not None and fit.window is None and some.numel() == len(ids) * num:
        some = some.reshape(len(ids), num)
        keep = some if keep is None else keep & some
    if heldout is None:
        fit.update(x, y, keep)
        return
    out = (ids % HELD_OUT == HELD_OUT - 1).to(x.device)
    for stat, mine in ((heldout, out), (fit, ~out)):
        if mine.any():
            stat.update(x[mine], y[mine], None if keep is None else keep[mine])
