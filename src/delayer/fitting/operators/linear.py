"""RBA's map as published: plain least squares."""

import torch

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Solution, operator
from delayer.fitting.operators._matrix import Matrix
from delayer.observing.stats.pair import Pair


@operator("linear")
class Linear(Matrix):
    """A full matrix without bias and ridge, as RBA fits it: d² parameters.

    Source: RBA/TOAST, Cannistraci et al., arXiv 2410.04941.
    """

    source = "Cannistraci et al. (RBA/TOAST), arXiv 2410.04941"

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        own = fits if fits is not None and not fits.bias else Fits(pair, bias=False)
        return Solution(torch.eye(pair.width, dtype=pair.xx.dtype) + own.update(pair, 0.0), torch.zeros_like(pair.mean_x))
