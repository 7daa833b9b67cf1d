"""Closed-form maps from one point to another, fitted and judged from second moments alone.

With rows x (before) and y (after), a map is y ≈ W x + b, W [d, d]. Ridge pulls W towards the identity, so that on the
rows that it was fitted to a map is never worse than dropping, whatever the ridge:

    W = I + (Syx − Sxx)(Sxx + λ c I)⁻¹,   b = ȳ − W x̄,   c = tr(Sxx) / d

with centred S (uncentred and b = 0 for a map without bias). From held-out moments the squared error of any map is a
closed formula, so every operator on every span is judged without touching a network.
The kinds of maps, RBA's among them, are in `operators`.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from delayer.fitting.ridge import largest_as_good, mean_eigenvalue
from delayer.observing.stats.pair import Pair

RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Shares of the mean eigenvalue of Sxx that a held-out choice looks at."""


TIE = 1e-9
"""Share of the target's energy that errors must lie apart to be told apart: of those that tie the largest ridge is taken,
which is the nearest to changing nothing."""
SMALLEST = 1e-16
"""Features smaller than that on average have squares that single precision takes for nothing."""
CONSTANT = 1e-13
"""Share of their energy below which what features vary by is the rounding of single precision."""


class Fits:
    """All fits from one point, sharing one eigendecomposition V Λ Vᵀ of Sxx, made when it is first needed."""

    def __init__(self, pair: Pair, *, bias: bool = True):
        self.bias, self.rounding = bias, pair.rounding
        self.xx = (pair if bias else pair.uncentred()).xx
        self.scale = mean_eigenvalue(self.xx)

    @cached_property
    def _decomposed(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.eigh((self.xx + self.xx.T) / 2)

    @property
    def values(self) -> Tensor:
        """Λ [d], none below zero."""
        return self._decomposed[0].clamp_min(0)

    @property
    def vectors(self) -> Tensor:
        """V [d, d], a column each."""
        return self._decomposed[1]

    def inverse(self, ridge: float) -> Tensor:
        """Eigenvalues [d] of (Sxx + ridge·c·I)⁻¹; directions that the rows never showed get zero."""
        total = self.values + ridge * self.scale
        seen = total > self.values[-1].clamp_min(1e-300) * self.rounding
        return torch.where(seen, 1 / total.clamp_min(1e-300), 0.0)

    def gap(self, pair: Pair) -> Tensor:
        """(Syx − Sxx) V [d, d]: what a fit is made of, before any ridge."""
        return ((pair if self.bias else pair.uncentred()).xy - self.xx).T @ self.vectors

    def update(self, pair: Pair, ridge: float) -> Tensor:
        """W − I [d, d]."""
        return (self.gap(pair) * self.inverse(ridge)) @ self.vectors.T

    def best_ridge(self, pair: Pair, heldout: Pair, ridges: Sequence[float]) -> float:
        """The ridge whose full map with bias has the least held-out error; the largest of those that tie.

        In the eigenbasis a map is gap · diag(v), v the inverse of Λ + λc, so its error is quadratic in v and all
        ridges together cost three products.
        """
        gap, basis = self.gap(pair), self.vectors
        linear = ((heldout.xy - heldout.xx).T @ basis * gap).sum(0)
        square = (gap.T @ gap) * (basis.T @ heldout.xx @ basis)
        moved = gap * (basis.T @ (heldout.mean_x - pair.mean_x))
        missed = (heldout.mean_y - heldout.mean_x) - (pair.mean_y - pair.mean_x)

        def error(ridge: float) -> float:
            v = self.inverse(ridge)
            return float(v @ square @ v - 2 * linear @ v + heldout.num_rows * (moved @ v - missed).square().sum())

        return largest_as_good({ridge: error(ridge) for ridge in ridges}, slack=TIE * float(torch.trace(heldout.yy)))


def unfit(pair: Pair) -> str:
    """Why no map can be fitted to these rows; "" where one can."""
    numbers = pair.mean_x, pair.mean_y, pair.xx, pair.xy, pair.yy
    if not all(torch.isfinite(t.sum()) or torch.isfinite(t).all() for t in numbers):
        return "the features hold NaN or infinity, or their squares do"
    for name, mean, square in (
        ("features that enter it", pair.mean_x, pair.xx),
        ("features that it should give", pair.mean_y, pair.yy),
    ):
        about_mean, about_zero = (
            float(torch.trace(square) + more) / max(pair.num_rows * pair.width, 1)
            for more in (0.0, pair.num_rows * mean.square().sum())
        )
        if about_zero < SMALLEST**2:
            return f"the {name} are all but zero ({max(about_zero, 0.0) ** 0.5:.0e} on average), and their squares vanish"
        if about_mean <= CONSTANT * about_zero:
            return f"the {name} never change, so there is nothing to tell a map by"
    return ""
