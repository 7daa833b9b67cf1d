"""One factor and one shift a feature."""

import torch
from pydantic import Field

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Operator, Solution, operator
from delayer.fitting.ridge import mean_eigenvalue
from delayer.modules.feature_maps import DiagonalMap
from delayer.observing.stats.pair import Pair


@operator("diagonal")
class Diagonal(Operator):
    """One factor and one shift a feature: 2 d parameters."""

    source = "ours"
    scanned = True
    ridge: float | None = Field(default=None, ge=0)
    """Share of the mean eigenvalue of Sxx, which pulls a map towards doing nothing; chosen on held-out data by default."""

    def num_params(self, width: int) -> int:
        return 2 * width

    def num_macs(self, width: int) -> int:
        return width

    def module(self, width: int, axis: int = -1) -> DiagonalMap:
        return DiagonalMap(width, axis)

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        xx, xy = torch.diagonal(pair.xx), torch.diagonal(pair.xy)
        total = xx + (self.ridge or 0.0) * mean_eigenvalue(pair.xx)
        weight = 1 + torch.where(total > 0, (xy - xx) / total.clamp_min(1e-300), 0.0)
        return Solution(weight, pair.mean_y - weight * pair.mean_x)
