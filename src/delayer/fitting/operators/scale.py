"""One factor a feature."""

import torch
from pydantic import Field

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Operator, Solution, operator
from delayer.fitting.ridge import mean_eigenvalue
from delayer.modules.feature_maps import DiagonalMap
from delayer.observing.stats.pair import Pair


@operator("scale")
class Scale(Operator):
    """One factor a feature and no shift: d parameters."""

    source = "ours"
    ridge: float | None = Field(default=None, ge=0)
    """Share of the mean eigenvalue of Sxx, which pulls a map towards doing nothing; chosen on held-out data by default."""

    def num_params(self, width: int) -> int:
        return width

    def num_macs(self, width: int) -> int:
        return width

    def module(self, width: int, axis: int = -1) -> DiagonalMap:
        return DiagonalMap(width, axis, bias=False)

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        about_zero = pair.uncentred()
        xx, xy = torch.diagonal(about_zero.xx), torch.diagonal(about_zero.xy)
        total = xx + (self.ridge or 0.0) * mean_eigenvalue(about_zero.xx)
        weight = 1 + torch.where(total > 0, (xy - xx) / total.clamp_min(1e-300), 0.0)
        return Solution(weight, torch.zeros_like(weight))
