"""Magnitude gap: how far a span scales the hidden state."""

import torch
from torch import Tensor

from delayer.metrics.blocks import metric
from delayer.metrics.blocks.block_redundancy import FEWEST, geometry, upper
from delayer.observing.stats import Geometry


@metric(
    title="Magnitude gap",
    shape="spans",
    redundant="low",
    unit="log of the ratio of sizes",
    source="after Chen et al. 2025 (Prune&Comp), arXiv 2507.18212",
    stat=geometry,
    fewest=FEWEST,
)
def magnitude_gap(stat: Geometry) -> Tensor:
    """|log(r_j / r_i)| [points, points], r the root mean square of ‖h‖ over rows; 0 where the size stays.

    Fidelity: Prune&Comp measures the gap to rescale weights by it, and ranks layers by other metrics.
    """
    size = stat.squared_norm.clamp_min(1e-300).log() / 2
    gap = (size[None, :] - size[:, None]).abs()
    return upper(torch.where(stat.squared_distance.isnan(), torch.nan, gap))  # widths differ, or it was not watched
