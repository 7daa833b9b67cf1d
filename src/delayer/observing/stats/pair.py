"""Second moments of two points, and the error of any map from one to the other on the rows that they were taken of."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """Moments of two points x and y, in float64.

    mean_x, mean_y: x̄ and ȳ [d].
    xx, xy, yy: Σ(x−x̄)(x−x̄)ᵀ, Σ(x−x̄)(y−ȳ)ᵀ and Σ(y−ȳ)(y−ȳ)ᵀ [d, d].
    rounding: share of the largest eigenvalue below which eigenvalues of the products are noise.
    """

    num_rows: float
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    rounding: float = 16 * torch.finfo(torch.float64).eps

    @property
    def width(self) -> int:
        """Features at the first point."""
        return len(self.mean_x)

    def uncentred(self) -> "Pair":
        """The same moments about zero."""

        def about_zero(s: Tensor, a: Tensor, b: Tensor) -> Tensor:
            return s + self.num_rows * torch.outer(a, b)

        x, y, zero = self.mean_x, self.mean_y, torch.zeros_like(self.mean_x)
        return Pair(
            self.num_rows,
            zero,
            zero,
            about_zero(self.xx, x, x),
            about_zero(self.xy, x, y),
            about_zero(self.yy, y, y),
            self.rounding,
        )


def squared_error(pair: Pair, weight: Tensor, bias: Tensor) -> float:
    """Σ ‖W x + b − y‖² over a pair's rows, from moments. W is [d, d], or its diagonal [d].

    With e = y − x and G = W − I it is tr See − 2 tr(G Sxe) + tr(G Sxx Gᵀ) + n ‖G x̄ + b − ē‖².
    """
    xe = pair.xy - pair.xx
    error = torch.trace(pair.yy) - torch.trace(pair.xy) - torch.trace(xe)
    if weight.ndim == 1:
        gap = weight - 1
        moved = gap * pair.mean_x
        error = error + gap @ (gap * torch.diagonal(pair.xx) - 2 * torch.diagonal(xe))
    else:
        gap = weight - torch.eye(len(bias), dtype=weight.dtype, device=weight.device)
        moved = gap @ pair.mean_x
        error = error + (gap * (gap @ pair.xx - 2 * xe.T)).sum()
    error = error + pair.num_rows * (moved + bias - pair.mean_y + pair.mean_x).square().sum()
    return max(float(error), 0.0)


def relative_residual(pair: Pair, weight: Tensor, bias: Tensor) -> float:
    """Squared error over the centred energy Σ ‖y − ȳ‖² of the target: 0 is perfect, 1 is no better than the mean.

    A target that never changes gives 0 when the map hits it and infinity when it does not.
    """
    error, total = squared_error(pair, weight, bias), float(torch.trace(pair.yy))
    level = total + pair.num_rows * float(pair.mean_y @ pair.mean_y)
    if total <= 1e-12 * max(level, 1e-300):
        given = float(torch.trace(pair.xx)) + pair.num_rows * float(pair.mean_x @ pair.mean_x)
        return 0.0 if error <= 1e-12 * max(level, given, 1e-300) else float("inf")
    return error / total
