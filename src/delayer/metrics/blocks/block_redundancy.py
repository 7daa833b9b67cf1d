"""Block Redundancy, absolute and relative."""

import torch
from torch import Tensor

from delayer.metrics.blocks import Layout, metric
from delayer.observing.stats import Geometry

SOURCE = "Cannistraci et al. 2024, arXiv 2410.04941"
FEWEST = 16
"""Samples: a mean over so many has a standard error of a quarter of what single samples differ by."""


def geometry(layout: Layout) -> Geometry:
    """Distances and angles inside each segment, on the family's row (the class token of a ViT)."""
    return Geometry(layout.groups, layout.rows, layout.num_points)


def upper(values: Tensor) -> Tensor:
    """Spans only: the part above the diagonal, NaN elsewhere."""
    keep = torch.ones_like(values, dtype=torch.bool).triu(1)
    return torch.where(keep, values, torch.nan)


@metric(
    title="Block Redundancy",
    shape="spans",
    redundant="high",
    unit="squared distance",
    source=SOURCE,
    stat=geometry,
    fewest=FEWEST,
)
def block_redundancy(stat: Geometry) -> Tensor:
    """−mean‖h_j − h_i‖² [points, points] for the span from point i to point j; 0 where nothing changes.

    Fidelity: on the class token, not divided by the width; the paper confirms neither. Block 0 is compared with the
    embedding.
    """
    return upper(-stat.squared_distance)


@metric(
    title="Relative Block Redundancy",
    shape="spans",
    redundant="high",
    unit="share of the energy before",
    source=SOURCE,
    stat=geometry,
    fewest=FEWEST,
)
def relative_block_redundancy(stat: Geometry) -> Tensor:
    """−mean‖h_j − h_i‖² / mean‖h_i‖²: the same, whatever the scale of the activations.

    Fidelity: ours; reviewers of the paper criticised that the absolute form depends on scale.
    """
    return upper(-stat.squared_distance / stat.squared_norm[:, None].clamp_min(1e-300))
