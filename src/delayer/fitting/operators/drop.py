"""Nothing at all: the span's blocks leave the network."""

import torch

from delayer.fitting.affine import Fits
from delayer.fitting.operators import Ends, Operator, Solution, operator
from delayer.observing.stats.pair import Pair


@operator("drop")
class Drop(Operator):
    """Nothing: what enters the span goes on as it is."""

    source = "Gromov et al., arXiv 2403.17887; Men et al. (ShortGPT), arXiv 2403.03853"
    scanned = removes = True

    @property
    def label(self) -> str:
        return "nothing"

    def num_params(self, width: int) -> int:
        return 0

    def num_macs(self, width: int) -> int:
        return 0

    def tuned(self, ends: Ends) -> "Drop":
        return self

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        return Solution(torch.ones_like(pair.mean_x), torch.zeros_like(pair.mean_x))
