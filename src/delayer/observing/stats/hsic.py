"""Unbiased HSIC between all points, batch by batch, with linear kernels: what CKA is made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from delayer.observing.rows import Rows


def u_centred_(gram: Tensor) -> Tensor:
    """U-centre Gram matrices [..., n, n] in place: ⟨U_i, U_j⟩ / (n (n − 3)) is the unbiased HSIC of kernels i and j.

    Source: Székely & Rizzo 2014; Song et al., JMLR 2012 (the unbiased estimator). Needs n ≥ 4.
    """
    n = gram.shape[-1]
    diagonal = torch.diagonal(gram, dim1=-2, dim2=-1)
    diagonal.zero_()
    row = gram.sum(-1)
    half = row / (n - 2) - row.sum(-1, keepdim=True) / (2 * (n - 1) * (n - 2))
    gram -= half[..., :, None]
    gram -= half[..., None, :]
    diagonal.zero_()
    return gram


def hsic_of(features: Sequence[Tensor]) -> Tensor:
    """Unbiased HSIC [points, points] of features [n, width_i] with linear kernels, in one product for all pairs.

    Each Gram matrix is formed and centred once. Features are centred first, which changes nothing but rounding.
    Constant features give exactly 0.
    """
    n = len(features[0])
    u = features[0].new_empty(len(features), n, n)
    for x, gram in zip(features, u, strict=True):
        x = x - x[:1]
        x -= x.mean(0)
        u_centred_(torch.mm(x, x.T, out=gram))
    # A product a sample, added in float64: one long product in single precision would lose digits.
    return (u.transpose(0, 1) @ u.permute(1, 2, 0)).sum(0, dtype=torch.float64) / (n * (n - 3))


class Hsic:
    """HSIC [chunks, points, points] over chunks of `batch_size` samples, in the samples' own order.

    Rows are re-chunked by sample number, so that any loader's batches and any number of processes give the same
    chunks. One row a sample: the policies mean, first and last.
    """

    def __init__(self, points: Iterable[int | str], rows: Rows = Rows("mean"), *, batch_size: int = 256):
        if rows.kind == "each":
            raise ValueError("HSIC compares samples: use rows mean, first or last.")
        if batch_size < 4:
            raise ValueError(f"The unbiased HSIC needs batches of at least 4 samples, not {batch_size}.")
        self.points, self.rows, self.batch_size = tuple(points), rows, batch_size
        self._done: dict[int, Tensor] = {}
        self._waiting: dict[int, tuple[Tensor, Tensor]] = {}
        self._widths: tuple[int, ...] = ()

    def update(self, rows: Mapping[int | str, Tensor], ids: Tensor) -> None:
        """Add rows: each point's [rows, width], and the number of each row."""
        self._widths = tuple(rows[p].shape[1] for p in self.points)
        joined = torch.cat([rows[p] for p in self.points], 1)
        for chunk in (ids // self.batch_size).unique().tolist():
            mine = ids // self.batch_size == chunk
            self._add(chunk, ids[mine], joined[mine.to(joined.device)])

    def _add(self, chunk: int, ids: Tensor, joined: Tensor) -> None:
        if chunk in self._waiting:
            old_ids, old = self._waiting.pop(chunk)
            ids, joined = torch.cat([old_ids, ids]), torch.cat([old, joined.to(old.device)])
        if len(ids) == self.batch_size:
            self._done[chunk] = self._hsic(ids, joined)
        else:
            self._waiting[chunk] = (ids, joined)

    def _hsic(self, ids: Tensor, joined: Tensor) -> Tensor:
        order = ids.argsort().to(joined.device)
        return hsic_of(joined[order].double().split(self._widths, 1)).cpu()

    def _seen(self) -> tuple:
        return self._widths, self._done, {k: (ids, joined.cpu()) for k, (ids, joined) in self._waiting.items()}

    def _add_seen(self, widths: tuple[int, ...], done: dict[int, Tensor], waiting: dict[int, tuple]) -> None:
        self._widths = self._widths or widths
        self._done |= done
        for chunk, (ids, joined) in waiting.items():
            self._add(chunk, ids, joined)

    def merge(self, other: "Hsic") -> None:
        """Add what another one of the same points has seen."""
        self._add_seen(*other._seen())

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Add up what all processes have seen, in each."""
        seen = gather(self._seen())
        self._done, self._waiting = {}, {}
        for one in seen:
            self._add_seen(*one)

    def chunks(self) -> tuple[Tensor, Tensor]:
        """Sizes [chunks] and HSIC [chunks, points, points]; a last, smaller chunk counts when it has 4 samples."""
        found = {chunk: (self.batch_size, hsic) for chunk, hsic in self._done.items()}
        found |= {k: (len(ids), self._hsic(ids, x)) for k, (ids, x) in self._waiting.items() if len(ids) >= 4}
        order = sorted(found)
        empty = torch.zeros(0, len(self.points), len(self.points), dtype=torch.float64)
        sizes = torch.tensor([found[k][0] for k in order], dtype=torch.float64)
        return sizes, torch.stack([found[k][1] for k in order]) if order else empty

    @property
    def num_rows(self) -> int:
        """Rows seen, with those that still wait for a whole batch."""
        return self.batch_size * len(self._done) + sum(len(ids) for ids, _ in self._waiting.values())

    def state(self) -> dict[str, Tensor]:
        """What was seen as tensors, to be saved and loaded again."""
        widths, done, waiting = self._seen()
        return {
            "widths": torch.tensor(widths, dtype=torch.long),
            **{f"done.{k}": hsic for k, hsic in done.items()},
            **{f"ids.{k}": ids for k, (ids, _) in waiting.items()},
            **{f"rows.{k}": joined for k, (_, joined) in waiting.items()},
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        named = [(*name.split("."), value) for name, value in state.items() if "." in name]
        self._widths = tuple(state["widths"].tolist())
        self._done = {int(k): value for kind, k, value in named if kind == "done"}
        self._waiting = {int(k): (value, state[f"rows.{k}"]) for kind, k, value in named if kind == "ids"}
