"""The identity plus two thin factors, and a bias."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from delayer.errors import PlanError
from delayer.fitting.affine import Fits
from delayer.fitting.operators import Ends, Operator, Solution, operator
from delayer.modules.feature_maps import LowRankMap
from delayer.observing.stats.pair import Pair


@operator("low_rank")
class LowRank(Operator):
    """The identity plus U V in two thin factors, and a bias: (2 r + 1) d parameters.

    The update W − I is truncated in the metric of Sxx; truncating W itself is worse than dropping.
    """

    source = "ours"
    scanned = True
    rank: int = Field(ge=1, le=1_000_000)
    """Rank of the update of a low_rank map: less than the width."""
    ridge: float | None = Field(default=None, ge=0)
    """Share of the mean eigenvalue of Sxx, which pulls a map towards doing nothing; chosen on held-out data by default."""

    @property
    def title(self) -> str:
        return f"low rank {self.rank}"

    @classmethod
    def settings(cls, width: int) -> Sequence["LowRank"]:
        """A sixth and a third of the width.

        Source: the third-party re-run of TOAST, where rank d/3 keeps 98 % of the gain and d/6 87 %.
        """
        return tuple(cls(rank=rank) for rank in sorted({max(1, width // 6), max(1, width // 3)} - {width}))

    def tuned(self, ends: Ends) -> "LowRank":
        """With the ridge of the full map: its own lies near, and finding it costs a decomposition each."""
        return self if self.ridge is not None else self.model_copy(update={"ridge": ends.ridge})

    def check(self, width: int, axis: int) -> None:
        if self.rank >= width:
            most = f"a rank between 1 and {width - 1}" if width > 1 else "another operator"
            raise PlanError(f"A low-rank update of rank {self.rank} was asked for where the width is {width}. Use {most}.")

    def num_params(self, width: int) -> int:
        return (2 * self.rank + 1) * width

    def num_macs(self, width: int) -> int:
        return 2 * self.rank * width

    def module(self, width: int, axis: int = -1) -> LowRankMap:
        self.check(width, axis)
        return LowRankMap(width, self.rank, axis)

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        fits, ridge = fits or Fits(pair), self.ridge or 0.0
        u, v = _truncated(fits.update(pair, ridge), fits, ridge, self.rank)
        weight = torch.eye(pair.width, dtype=pair.xx.dtype) + u @ v
        bias = pair.mean_y - weight @ pair.mean_x
        return Solution(weight, bias, {"u": u, "v": v})


def _truncated(update: Tensor, fits: Fits, ridge: float, rank: int) -> tuple[Tensor, Tensor]:
    """U [d, r] and V [r, d], equally large, whose product is the best update of a rank in the metric of Sxx + λ c I."""
    root = (fits.values + ridge * fits.scale).sqrt()
    weighed = (update @ fits.vectors) * root
    # The left singular vectors, for a fraction of a decomposition's cost where rank and width are large.
    u = torch.linalg.eigh(weighed @ weighed.T).eigenvectors[:, -rank:].flip(1)
    v = u.T @ update
    size = v.norm(dim=1).clamp_min(1e-300).sqrt()
    return u * size, v / size[:, None]
