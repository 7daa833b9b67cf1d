"""A layer solved anew from fewer rows than it has inputs, for which rows take less memory than their moments.

With rows X [n, D] and targets Y [n, o], both less their means where the layer has a bias, weights W₀ and a penalty λ P of the
inputs, as in `layer`, the same solution through a system of n instead of D unknowns:

    Wᵀ = W₀ᵀ + P⁻¹ Xᵀ (X P⁻¹ Xᵀ + λ I)⁻¹ (Y − X W₀ᵀ)

Source: the matrix identity of Woodbury (1950); as in the dual form of ridge regression (Saunders et al. 1998).
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from delayer.observing.stats.patch_moments import PatchMoments

STRIP = 1024
"""Features that are widened to float64 at a time."""
LEAST = 1e-13
"""The least ridge, which keeps the system definite."""


class FewRows(PatchMoments):
    """A layer's inputs [n, D] and targets [n, o] themselves, in the precision that they came in."""

    def __init__(self):
        super().__init__()
        self._x: list[Tensor] = []
        self._y: list[Tensor] = []

    def update(self, x: Tensor, y: Tensor, keep: Tensor | None = None) -> None:
        """Keep a batch of inputs and of targets; keep [n, positions] is true where a position counts (all for None)."""
        rows = [t.reshape(len(t), -1, t.shape[-1]) for t in (x, y)]
        x, y = (t.flatten(0, 1) if keep is None else t[keep] for t in rows)
        self._x.append(x.detach().cpu().clone())
        self._y.append(y.detach().cpu().clone())
        self.num_rows += len(x)

    @property
    def x(self) -> Tensor:
        """All inputs."""
        self._x = [torch.cat(self._x)] if len(self._x) != 1 else self._x
        return self._x[0]

    @property
    def y(self) -> Tensor:
        """All targets."""
        self._y = [torch.cat(self._y)] if len(self._y) != 1 else self._y
        return self._y[0]

    def merge(self, other: PatchMoments) -> None:
        """Add the rows of another."""
        assert isinstance(other, FewRows)
        self._x, self._y = self._x + other._x, self._y + other._y
        self.num_rows += other.num_rows

    def only(self, index: Tensor) -> "FewRows":
        """Those of some inputs alone, and the same targets."""
        found = FewRows()
        if self.num_rows:
            found._x, found._y, found.num_rows = [self.x[:, index.cpu()]], [self.y], self.num_rows
        return found

    def about(self, where: Literal["mean", "zero"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The moments of the rows, for what reads nothing else; see `PatchMoments.about`."""
        moments = PatchMoments()
        moments.update(self.x[:, None], self.y[:, None])
        return moments.about(where)


class Dual:
    """All that solving a layer from few rows takes, whatever the ridge. weight: W₀ [o, D]."""

    def __init__(self, rows: FewRows, weight: Tensor, *, bias: bool):
        self.rows, self.weight = rows, weight.detach().cpu()
        x, y = rows.x, rows.y
        zero = (torch.zeros(width, dtype=torch.float64) for width in (x.shape[1], y.shape[1]))
        self.mean_x, self.mean_y = (t.mean(0, dtype=torch.float64) for t in (x, y)) if bias else zero
        energy = torch.cat([part.square().sum(0) for _, part in self._parts(rows)])
        self.penalty = ((energy + energy.mean()) / 2).clamp_min(1e-300)

    def _parts(self, rows: FewRows) -> Iterator[tuple[slice, Tensor]]:
        """Which features, and these of all rows in float64, less the means of the rows that are fitted."""
        for start in range(0, rows.x.shape[1], STRIP):
            some = slice(start, start + STRIP)
            yield some, rows.x[:, some].double() - self.mean_x[some]

    def _missed(self, rows: FewRows) -> Tensor:
        """What the old weights leave of the targets, [rows, o]."""
        missed = rows.y.double() - self.mean_y
        for some, part in self._parts(rows):
            missed -= part @ self.weight[:, some].double().T
        return missed

    def _products(self, rows: FewRows) -> Tensor:
        """X₁ P⁻¹ Xᵀ of some rows with those that are fitted, [rows, n]."""
        found = torch.zeros(rows.num_rows, self.rows.num_rows, dtype=torch.float64)
        for (some, part), (_, own) in zip(self._parts(rows), self._parts(self.rows), strict=True):
            found += part / self.penalty[some] @ own.T
        return found

    @cached_property
    def _system(self) -> Tensor:
        return self._products(self.rows)

    @cached_property
    def _left(self) -> Tensor:
        return self._missed(self.rows)

    def _answers(self, ridge: float, *, last: bool = False) -> Tensor:
        """(X P⁻¹ Xᵀ + λ I)⁻¹ (Y − X W₀ᵀ), [n, o]. last: no other ridge is asked for, so that the system need not be kept."""
        system = self._system if last else self._system.clone()
        if last:
            del self._system
        system.diagonal().add_(max(ridge, LEAST))
        factor, failed = torch.linalg.cholesky_ex(system)
        return torch.linalg.solve(system, self._left) if bool(failed) else torch.cholesky_solve(self._left, factor)

    def solution(self, ridge: float) -> tuple[Tensor, Tensor]:
        """W [o, D] and b [o] in float64."""
        answers, new = self._answers(ridge, last=True), self.weight.double()
        for some, part in self._parts(self.rows):
            new[:, some] += (part.T @ answers / self.penalty[some, None]).T
        return new, self.mean_y - new @ self.mean_x

    def errors(self, heldout: FewRows) -> Callable[[float], float]:
        """Σ ‖W x + b − y‖² over other rows, of the layer of any ridge, without making it."""
        products, left = self._products(heldout), self._missed(heldout)
        return lambda ridge: float((left - products @ self._answers(ridge)).square().sum())
