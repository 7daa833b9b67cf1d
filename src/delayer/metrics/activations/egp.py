"""Entropy as EGP reads it."""

import torch

from delayer.activations.switches import Switches
from delayer.metrics.activations import site_metric
from delayer.metrics.activations._entropy import entropy


@site_metric(title="EGP entropy", unit="bits", source="Liao et al. 2023 (EGP), arXiv 2308.06619")
def egp(stat: Switches) -> float:
    """Entropy of ON (z > 0) for each batch and channel, then the mean over channels that do switch, then over batches.

    Channels with p exactly 0 or 1 are left out of a batch's mean, which is 0 where none is left.
    Fidelity: batches have a size of their own (128 by default), whatever the loader's. A saturating activation's outer
    pieces count as states of their own.
    """
    off, zero, on, above, below = stat.counts_by_chunk().unbind(1)
    found = entropy(torch.stack([off + zero, on, above, below], 1))
    return float((found.sum(1) / (found > 0).sum(1).clamp_min(1)).mean())
