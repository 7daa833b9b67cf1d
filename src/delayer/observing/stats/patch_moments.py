"""Second moments of what a layer reads and of what it should answer: the normal equations of a linear layer.

A convolution is a linear map of unfolded patches, so one accumulator serves both kinds.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from delayer.observing.stats.moments import fits_single

Precision = Literal["rough", "usual", "exact"]
STRIP = 384
"""Rows of a product at a time; only what lies on and above the diagonal is computed, strip by strip."""
CHUNK_BYTES = 64 * 2**20
"""Patches are unfolded for so many samples at a time that they take no more than this."""


class PatchMoments:
    """Counts, sums and products of a layer's inputs [D] and its targets [o], in float64; nothing is kept per sample.

    window: the layer's kernel, stride, padding and dilation for pictures [n, c, h, w], D = c · kernel height · kernel
    width, zeros beyond the border as the layer itself reads them; None for features on the last axis, D = features.
    precision: of the products. "usual": in the inputs' own, but at least in float32, chunk by chunk, and added in float64.
    "exact": in float64. "rough": in the inputs' own, bfloat16 too, and added in float32, which a ridge of a percent hides.
    Products are taken about the means of the first chunk, so that large means cost no digits.
    """

    def __init__(self, window: Mapping[str, tuple[int, int]] | None = None, *, precision: Precision = "usual"):
        self.window = window
        self.precision: Precision = precision
        self.num_rows = 0
        self._sums: dict[str, Tensor] = {}

    def update(self, x: Tensor, y: Tensor, keep: Tensor | None = None) -> None:
        """Add a batch of inputs and of targets; keep [n, positions] is true where a position counts (all for None)."""
        if self.window is None:
            rows = [t.reshape(len(t), -1, t.shape[-1]) for t in (x, y)]
            x, y = (t.flatten(0, 1) if keep is None else t[keep] for t in rows)
            self._add(x.T, y.T)
            return
        area = self.window["kernel_size"][0] * self.window["kernel_size"][1]
        each = x.element_size() * x.shape[1] * area * y.shape[2] * y.shape[3]
        size = max(1, CHUNK_BYTES // max(each, 1))
        for start in range(0, len(x), size):
            some = slice(start, start + size)
            rows = F.unfold(x[some], **self.window), y[some].flatten(2)  # [n, D, positions], [n, o, positions]
            if keep is None:
                self._add(*(t.transpose(0, 1).flatten(1) for t in rows))
            else:
                self._add(*(t.transpose(1, 2)[keep[some]].T for t in rows))

    def _add(self, x: Tensor, y: Tensor) -> None:
        """Add rows [D, n] and [o, n]."""
        if not x.shape[1]:
            return
        if self.precision == "rough":
            y = y.to(x.dtype)
        else:
            x, y = (t.double() if self.precision == "exact" else t.float() if t.itemsize < 4 else t for t in (x, y))
        if not self._sums:
            # What is taken off rows must be what is kept in the books, to the last bit.
            self._begin(*(t.double().mean(1).to(t.dtype).double() for t in (x, y)))
        seen = self._sums
        x, y = x - seen["shift_x"].to(x.dtype)[:, None], y - seen["shift_y"].to(y.dtype)[:, None]
        seen["x"] += x.sum(1, dtype=torch.float64)
        seen["y"] += y.sum(1, dtype=torch.float64)
        x, y = (t if fits_single(t) else t.double() for t in (x, y))
        if x.dtype != y.dtype:
            x, y = x.double(), y.double()
        for start in range(0, len(x), STRIP):  # what stands below the diagonal is the same
            seen["xx"][start : start + STRIP, start:] += x[start : start + STRIP] @ x[start:].T
        seen["xy"] += x @ y.T
        seen["yy"] += y.square().sum(1)
        self.num_rows += x.shape[1]

    def _begin(self, shift_x: Tensor, shift_y: Tensor) -> None:
        zero, wide = torch.zeros_like(shift_x), len(shift_x)
        products = torch.float32 if self.precision == "rough" else torch.float64
        self._sums = {
            "shift_x": shift_x,
            "shift_y": shift_y,
            "x": zero,
            "y": torch.zeros_like(shift_y),
            "xx": shift_x.new_zeros(wide, wide, dtype=products),
            "xy": shift_x.new_zeros(wide, len(shift_y), dtype=products),
            "yy": torch.zeros_like(shift_y),
        }

    def _recentre(self, shift_x: Tensor, shift_y: Tensor) -> None:
        """Say the same about another shift."""
        s, num = self._sums, self.num_rows
        dx, dy = s["shift_x"] - shift_x, s["shift_y"] - shift_y
        s["xx"] += torch.outer(s["x"], dx) + torch.outer(dx, s["x"]) + num * torch.outer(dx, dx)
        s["xy"] += torch.outer(s["x"], dy) + torch.outer(dx, s["y"]) + num * torch.outer(dx, dy)
        s["yy"] += 2 * s["y"] * dy + num * dy.square()
        s["x"], s["y"] = s["x"] + num * dx, s["y"] + num * dy
        s["shift_x"], s["shift_y"] = shift_x.clone(), shift_y.clone()

    def only(self, index: Tensor) -> "PatchMoments":
        """Those of some inputs alone, and the same targets; index: which [D'], in rising order."""
        found = PatchMoments(self.window, precision=self.precision)
        found.num_rows = self.num_rows
        for name, t in self._sums.items():
            mine = index.to(t.device)
            found._sums[name] = t[mine][:, mine] if name == "xx" else t[mine] if name in ("shift_x", "x", "xy") else t.clone()
        return found

    def merge(self, other: "PatchMoments") -> None:
        """Add what another has seen (and leave it saying the same about this one's shift)."""
        if not other._sums:
            return
        if not self._sums:
            self._begin(other._sums["shift_x"].clone(), other._sums["shift_y"].clone())
        other._recentre(self._sums["shift_x"], self._sums["shift_y"])
        for name in ("x", "y", "xx", "xy", "yy"):
            self._sums[name] = self._sums[name] + other._sums[name]
        self.num_rows += other.num_rows

    def about(self, where: Literal["mean", "zero"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means x̄ [D] and ȳ [o], Σxxᵀ [D, D], Σxyᵀ [D, o] and Σy² [o], centred or about zero (then the means are 0).

        In float64, but for products that were added in float32.
        """
        s, num = self._sums, self.num_rows
        gap_x, gap_y, xx, xy = s["x"] / num, s["y"] / num, s["xx"].clone(), s["xy"].clone()
        mean_x, mean_y = s["shift_x"] + gap_x, s["shift_y"] + gap_y
        yy = s["yy"] - num * gap_y.square()
        moves = [(-num, gap_x, gap_y)]
        if where == "zero":
            moves.append((num, mean_x, mean_y))
            yy = yy + num * mean_y.square()
            mean_x, mean_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
        for factor, x, y in moves:
            x, y = x.to(xx.dtype), y.to(xx.dtype)
            xx.addr_(x, x, alpha=factor)
            xy.addr_(x, y, alpha=factor)
        for start in range(0, len(xx), STRIP):  # what stands below the diagonal was left out
            end = start + STRIP
            square = xx[start:end, start:end]
            square.copy_(square.triu() + square.triu(1).T)
            xx[end:, start:end] = xx[start:end, end:].T
        return mean_x.cpu(), mean_y.cpu(), xx.cpu(), xy.cpu(), yy.cpu()

    def state(self) -> dict[str, Tensor]:
        """The sums as tensors, to be saved and loaded again."""
        return {"num_rows": torch.tensor(self.num_rows), **{name: t.cpu().clone() for name, t in self._sums.items()}}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.num_rows = int(state["num_rows"])
        self._sums = {name: t.clone() for name, t in state.items() if name != "num_rows"}
