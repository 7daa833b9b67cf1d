"""The linear layer that brings its inputs nearest to a target, in closed form, pulled towards weights that are given.

With Σ over rows of inputs x [D] and targets y [o], weights W [o, D] near W₀:

    W = W₀ + (Syx − W₀ Sxx)(Sxx + λ P)⁻¹,   b = ȳ − W x̄,   P = diag of each input's energy and the mean energy, half each

with centred S (uncentred, and no b, for a layer without bias). W minimises error plus a penalty that is zero at W₀, so
on the rows that it was fitted to it is never worse than W₀ with its best bias, whatever the ridge.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from delayer.observing.stats.patch_moments import PatchMoments

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.3, 1.0)
"""Shares of the inputs' energy that a held-out choice looks at."""

NEARLY_BEST = 1.03


def solve_layer(moments: PatchMoments, weight: Tensor, *, ridge: float, bias: bool = True) -> tuple[Tensor, Tensor]:
    """W [o, D] and b [o] in float64; b is zero for a layer without bias.

    weight: W₀ [o, D]. ridge: λ, a share of the inputs' energy; inputs that never change keep their old weights.
    """
    mean_x, mean_y, xx, xy, _ = moments.about("mean" if bias else "zero")
    old = weight.detach().cpu().double()
    energy = xx.diagonal()
    penalty = (energy + energy.mean()) / 2 * ridge
    # What rows never showed is left as it was: the least that keeps the system definite in float64.
    floor = 1e-13 * max(float(energy.max()), 1e-300)
    system = xx + torch.diag(penalty.clamp_min(floor))
    update = torch.linalg.solve(system, xy - xx @ old.T).T
    new = old + update
    return new, mean_y - new @ mean_x


def layer_error(moments: PatchMoments, weight: Tensor, bias: Tensor) -> float:
    """Σ ‖W x + b − y‖² over the rows that the moments were taken of."""
    mean_x, mean_y, xx, xy, yy = moments.about("mean")
    missed = weight @ mean_x + bias - mean_y
    error = yy.sum() - 2 * (weight * xy.T).sum() + (weight @ xx * weight).sum()
    return max(float(error + moments.num_rows * missed.square().sum()), 0.0)


def best_ridge(
    moments: PatchMoments, heldout: PatchMoments, weight: Tensor, *, bias: bool = True, ridges: Sequence[float] = RIDGES
) -> float:
    """The largest ridge whose layer, fitted on some rows, is about as good as the best on others.

    About: its error is at most NEARLY_BEST times the least. The error is flat around its least, and what is nearer to the
    old weights keeps more of what they knew of data unlike the rows (kin to the one-standard-error rule of Breiman et al.).
    """
    errors = {ridge: layer_error(heldout, *solve_layer(moments, weight, ridge=ridge, bias=bias)) for ridge in ridges}
    return max(ridge for ridge, error in errors.items() if error <= NEARLY_BEST * min(errors.values()))
