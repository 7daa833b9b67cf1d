"""One full matrix with a bias, pulled towards the identity."""

import torch
from pydantic import Field

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Ends, Operator, Solution, operator
from delayer.modules.feature_maps import DenseMap
from delayer.observing.stats.pair import Pair


@operator("affine")
class Affine(Operator):
    """A full matrix and a bias, W x + b: d² + d parameters.

    Source: RBA/TOAST, Cannistraci et al., arXiv 2410.04941, for the map without bias and ridge; see `linear`.
    """

    source = "RBA's map (arXiv 2410.04941) with bias and ridge"
    scanned = True
    ridge: float | None = Field(default=None, ge=0)
    """Share of the mean eigenvalue of Sxx, which pulls a map towards doing nothing; chosen on held-out data by default."""

    def tuned(self, ends: Ends) -> "Affine":
        return self if self.ridge is not None else self.model_copy(update={"ridge": ends.ridge})

    def num_params(self, width: int) -> int:
        return width**2 + width

    def num_macs(self, width: int) -> int:
        return width**2

    def module(self, width: int, axis: int = -1) -> DenseMap:
        return DenseMap(width, axis)

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        weight = torch.eye(pair.width, dtype=pair.xx.dtype) + (fits or Fits(pair)).update(pair, self.ridge or 0.0)
        return Solution(weight, pair.mean_y - weight @ pair.mean_x)
