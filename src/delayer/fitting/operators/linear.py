"""RBA's map as published: plain least squares."""

import torch

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Operator, Solution, operator
from delayer.modules.feature_maps import DenseMap
from delayer.observing.stats.pair import Pair


@operator("linear")
class Linear(Operator):
    """A full matrix without bias and ridge, as RBA fits it: d² parameters.

    Source: RBA/TOAST, Cannistraci et al., arXiv 2410.04941.
    """

    source = "Cannistraci et al. (RBA/TOAST), arXiv 2410.04941"

    def num_params(self, width: int) -> int:
        return width**2

    def num_macs(self, width: int) -> int:
        return width**2

    def module(self, width: int, axis: int = -1) -> DenseMap:
        return DenseMap(width, axis, bias=False)

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        own = fits if fits is not None and not fits.bias else Fits(pair, bias=False)
        return Solution(torch.eye(pair.width, dtype=pair.xx.dtype) + own.update(pair, 0.0), torch.zeros_like(pair.mean_x))
