"""Ridge: how strongly a solution is pulled towards what stood there, and how that is chosen.

With rows of inputs x and targets y, centred second moments S and weights W₀ that stood there:

    W = W₀ + (Syx − W₀ Sxx)(Sxx + λ P)⁻¹

Maps from one point of a stream to another (`affine`) have W₀ = I and P = c I, c = tr(Sxx) / d: features of one stream are of a
kind, and one eigendecomposition then serves all ridges and all ends. A layer solved anew (`layer`) has its old weights as W₀, and
as P half each input's own energy and half the mean: inputs behind an activation differ by orders of magnitude.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def mean_eigenvalue(xx: Tensor) -> float:
    """What the ridge of a map is a share of; 1 for rows that never change."""
    return float(torch.trace(xx)) / len(xx) or 1.0


def largest_as_good(errors: Mapping[float, float], *, slack: float = 0.0, share: float = 0.0) -> float:
    """The largest of some ridges, which is the one nearest to changing nothing, whose held-out error is about the least.

    About: at most a share of the least, and slack, above it.
    How much slack is right depends on what a ridge pulls to. The identity knows nothing of data, so a map's slack is rounding
    alone; a layer's old weights know of data unlike the rows, so a layer gives some of its error away to stay nearer to them.
    errors: by ridge; NaN is the worst.
    """
    found = {ridge: math.inf if math.isnan(error) else error for ridge, error in errors.items()}
    least = min(found.values())
    return max(ridge for ridge, error in found.items() if error <= (1 + share) * least + slack)
