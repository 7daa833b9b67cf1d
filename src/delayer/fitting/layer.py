"""The linear layer that brings its inputs nearest to a target, in closed form, pulled towards weights that are given.

With Σ over rows of inputs x [D] and targets y [o], weights W [o, D] near W₀:

    W = W₀ + (Syx − W₀ Sxx)(Sxx + λ P)⁻¹,   b = ȳ − W x̄,   P = diag of each input's energy and the mean energy, half each

with centred S (uncentred, and no b, for a layer without bias). W minimises error plus a penalty that is zero at W₀, so
on the rows that it was fitted to it is never worse than W₀ with its best bias, whatever the ridge.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from delayer.fitting.few_rows import Dual, FewRows
from delayer.fitting.ridge import largest_as_good
from delayer.observing.stats.patch_moments import PatchMoments

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 0.3, 1.0)
"""Shares of the inputs' energy that a held-out choice looks at."""
NEARLY_BEST = 0.03
"""Share of the least held-out error that a larger ridge may cost."""
FEW_SAMPLES = 1e-2
"""The ridge where there are too few samples to choose one."""


def solve_layer(moments: PatchMoments, weight: Tensor, *, ridge: float, bias: bool = True) -> tuple[Tensor, Tensor]:
    """W [o, D] and b [o] in float64; b is zero for a layer without bias.

    weight: W₀ [o, D]. ridge: λ, a share of the inputs' energy; inputs that never change keep their old weights.
    """
    if isinstance(moments, FewRows):
        return Dual(moments, weight, bias=bias).solution(ridge)
    return _solutions(moments, weight, bias=bias)(ridge)


def layer_error(moments: PatchMoments, weight: Tensor, bias: Tensor) -> float:
    """Σ ‖W x + b − y‖² over the rows that the moments were taken of."""
    return _errors(moments)(weight, bias)


def best_ridge(
    moments: PatchMoments, heldout: PatchMoments, weight: Tensor, *, bias: bool = True, ridges: Sequence[float] = RIDGES
) -> float:
    """The largest ridge whose layer, fitted on some rows, is about as good as the best on others; `FEW_SAMPLES` without any.

    About: it costs at most a share of NEARLY_BEST of the least error. The error is flat around its least, and what is nearer to
    the old weights keeps more of what they knew of data unlike the rows (kin to the one-standard-error rule of Breiman et al.).
    """
    if not (moments.num_rows and heldout.num_rows):
        return FEW_SAMPLES
    if isinstance(moments, FewRows) and isinstance(heldout, FewRows):
        error_at = Dual(moments, weight, bias=bias).errors(heldout)
    else:
        solution, error = _solutions(moments, weight, bias=bias), _errors(heldout)
        error_at = lambda ridge: error(*solution(ridge))  # noqa: E731
    found: dict[float, float] = {}
    for ridge in sorted(ridges, reverse=True):
        found[ridge] = error_at(ridge)
        least = min(found.values())
        if sum(one > (1 + NEARLY_BEST) * least for one in list(found.values())[-2:]) == 2:
            break  # the least lies behind, and smaller ridges only fit the rows more closely
    return largest_as_good(found, share=NEARLY_BEST)


def solved(system: Tensor, answers: Tensor) -> Tensor:
    """X with system · X = answers, for a symmetric system that is positive definite but for rounding."""
    factor, failed = torch.linalg.cholesky_ex(system)
    return torch.linalg.solve(system, answers) if bool(failed) else torch.cholesky_solve(answers, factor)


def _solutions(moments: PatchMoments, weight: Tensor, *, bias: bool) -> Callable[[float], tuple[Tensor, Tensor]]:
    """The layer of any ridge; what does not depend on the ridge is worked out once."""
    mean_x, mean_y, xx, xy, _ = moments.about("mean" if bias else "zero")
    old = weight.detach().cpu().to(xx.dtype)
    energy, gap = xx.diagonal().clone(), xy.addmm_(xx, old.T, alpha=-1)
    # What rows never showed is left as it was: the least that keeps the system definite.
    floor = 450 * torch.finfo(xx.dtype).eps * max(float(energy.max()), 1e-300)

    def solution(ridge: float) -> tuple[Tensor, Tensor]:
        penalty = ((energy + energy.mean()) / 2 * ridge).clamp_min(floor)
        xx.diagonal().copy_(energy + penalty)
        new = (old + solved(xx, gap).T).double()
        return new, mean_y - new @ mean_x

    return solution


def _errors(moments: PatchMoments) -> Callable[[Tensor, Tensor], float]:
    """The squared error of any layer on some rows; what does not depend on the layer is worked out once."""
    mean_x, mean_y, xx, xy, yy = moments.about("mean")

    def error(weight: Tensor, bias: Tensor) -> float:
        missed = weight @ mean_x + bias - mean_y
        weight = weight.to(xx.dtype)
        found = yy.sum() - 2 * (weight * xy.T).sum() + (weight @ xx * weight).sum()
        return max(float(found + moments.num_rows * missed.square().sum()), 0.0)

    return error
