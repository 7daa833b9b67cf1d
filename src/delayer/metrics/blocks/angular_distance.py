"""Angular distance between the ends of a span."""

from torch import Tensor

from delayer.metrics.blocks import metric
from delayer.metrics.blocks.block_redundancy import FEWEST, geometry, upper
from delayer.observing.stats import Geometry


@metric(
    title="Angular distance",
    shape="spans",
    redundant="low",
    unit="half turns",
    source="Gromov et al. 2024, arXiv 2403.17887; ReplaceMe, arXiv 2505.02819",
    stat=geometry,
    fewest=FEWEST,
)
def angular_distance(stat: Geometry) -> Tensor:
    """mean arccos(cos(h_i, h_j)) / π [points, points], on the last unpadded token of decoders."""
    return upper(stat.angle)
