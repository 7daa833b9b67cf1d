"""The map of Ghosted Layers: the identity and what least squares adds to it."""

import torch

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Solution, operator
from delayer.fitting.operators._matrix import Matrix
from delayer.observing.stats.pair import Pair

EPSILON = 1e-6
"""Added to the diagonal of XᵀX as it is, whatever the size of the features."""


@operator("ghosted")
class Ghosted(Matrix):
    """W = I + M without a bias, M = (XᵀX + 1e-6 I)⁻¹ Xᵀ(Y − X) in float64, for rows x W: d² parameters.

    X: what enters the span in the original, Y: what leaves it there, a row a token.
    Fidelity: as in the paper and its released code, which stack all rows; here XᵀX and XᵀY are summed batch by batch. Padding
    never enters.
    Source: Yun et al. 2026 (Ghosted Layers), arXiv 2605.15491.
    """

    source = "Yun et al. (Ghosted Layers), arXiv 2605.15491"

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        about_zero, one = pair.uncentred(), torch.eye(pair.width, dtype=pair.xx.dtype)
        added = torch.linalg.solve(about_zero.xx + EPSILON * one, about_zero.xy - about_zero.xx)
        return Solution((one + added).T.contiguous(), torch.zeros_like(pair.mean_x))
