"""Block influence: how far a span turns the hidden state."""

from torch import Tensor

from delayer.metrics.blocks import metric
from delayer.metrics.blocks.block_redundancy import FEWEST, geometry, upper
from delayer.observing.stats import Geometry


@metric(
    title="Block influence",
    shape="spans",
    redundant="low",
    unit="1 − cosine",
    source="Men et al. 2024 (ShortGPT), arXiv 2403.03853",
    stat=geometry,
    fewest=FEWEST,
)
def block_influence(stat: Geometry) -> Tensor:
    """1 − mean cos(h_i, h_j) [points, points]; 0 where the direction stays.

    Fidelity: on the family's row; ShortGPT averages over all tokens.
    """
    return upper(1 - stat.cosine)
