"""What one row of a statistic is: a token, a pixel, a mean over positions, or one chosen token.

Padding is masked here and only here.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # splitmix64 constants, as signed integers
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


RowKind = Literal["each", "mean", "first", "last"]


def row_kind(text: str) -> RowKind:
    """The kind of that name. Raises ValueError that names those that there are."""
    known: tuple[RowKind, ...] = get_args(RowKind)
    for kind in known:
        if kind == text:
            return kind
    raise ValueError(f"Row policy {text!r} is unknown; use each, mean, first or last.")


@dataclass(frozen=True)
class Rows:
    """A row policy.

    kind: "each" (every unpadded position), "mean" (over unpadded positions), "first" or "last" (unpadded position).
    share: for "each", the share of positions kept. Which ones follows from the seed, the sample's number and the
    position (counted from the first real token) alone, so that any batch split, any padding and any number of
    processes keep the same rows.
    """

    kind: RowKind = "each"
    share: float = 1.0

    def __post_init__(self):
        row_kind(self.kind)
        if not 0 < self.share <= 1:
            raise ValueError(f"The share of rows must lie in (0, 1], not {self.share}.")

    def __str__(self) -> str:
        return self.kind if self.kind != "each" or self.share == 1 else f"each:{self.share:g}"


def _hash(x: Tensor) -> Tensor:
    """splitmix64 (Steele, Lea, Flood 2014) of int64 values, shifts made logical by masking."""
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def chosen(rows: Rows, ids: Tensor, num_positions: int, mask: Tensor | None, seed: int) -> Tensor | None:
    """Flat indices [n] into [batch · positions] that an "each" policy keeps; None when it keeps all."""
    if rows.share == 1 and mask is None:
        return None
    shape = len(ids), num_positions
    keep = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool().cpu()
    if rows.share < 1:
        position = torch.arange(num_positions)[None] if mask is None else keep.cumsum(1) - 1
        stream = _hash(ids.cpu() ^ _hash(torch.tensor(seed)))
        uniform = (_hash(stream[:, None] ^ position) >> 11 & ((1 << 53) - 1)).double() / (1 << 53)
        keep = keep & (uniform < rows.share)
    return keep.flatten().nonzero()[:, 0]


def positions(hidden: Tensor, axis: int, *, samples: int = 0, num: int | None = None) -> Tensor:
    """A feature map as [batch, positions, features]; features alone become one position.

    samples: the axis of the batch, 0 where features lie on axis 1. num: the batch's size, where the first axis may hold
    several rows of each sample, one sample after the other.
    """
    if samples and axis == -1:
        hidden = hidden.movedim(samples, 0)
    if axis not in (-1, hidden.ndim - 1):
        hidden = hidden.movedim(axis, -1)
    return hidden.reshape(len(hidden) if num is None else num, -1, hidden.shape[-1])


def take(hidden: Tensor, rows: Rows, mask: Tensor | None, index: Tensor | None) -> Tensor:
    """Rows [n, features] of hidden states [batch, positions, features].

    They are copied, so that later changes in place cannot reach them.
    mask: [batch, positions], true where a token is real. index: what `chosen` gave, for "each".
    """
    if rows.kind == "each":
        if index is None:
            return hidden.clone(memory_format=torch.contiguous_format).flatten(0, 1)
        return hidden.flatten(0, 1).index_select(0, index.to(hidden.device))
    if rows.kind == "mean":
        exact_enough = torch.promote_types(hidden.dtype, torch.float32)
        if mask is None:
            return hidden.mean(1, dtype=exact_enough)
        real = mask.to(hidden.device, torch.bool)[..., None]
        # Filled, not multiplied: some attentions leave NaN where a token is padding.
        return hidden.masked_fill(~real, 0).sum(1, dtype=exact_enough) / real.sum(1).clamp_min(1)
    if mask is None:
        return hidden[:, 0 if rows.kind == "first" else -1].clone()
    step = torch.arange(mask.shape[1], device=mask.device)
    where = torch.where(mask.bool(), step, step.numel() if rows.kind == "first" else -1)
    where = where.amin(1) if rows.kind == "first" else where.amax(1)
    sample = torch.arange(len(hidden), device=hidden.device)
    return hidden[sample, where.clamp(0, mask.shape[1] - 1).to(hidden.device)]
