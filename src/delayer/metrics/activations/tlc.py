"""TLC's likelihood that linearising a channel errs."""

import torch
from torch import Tensor

from delayer.activations.normal import Normal
from delayer.activations.switches import Switches
from delayer.metrics.activations import site_metric

SOURCE = "Liao et al. 2024 (TLC), arXiv 2412.15077"
FEWEST = 32
"""Samples: a mean is known to a sixth of the deviation then. Parameters of norms need none."""


def collapse_error(normal: Normal) -> Tensor:
    """Φ(−|mean|/deviation) [channels]: how often an input is on the other side than most; 0 without spread."""
    off = normal.p_off()
    return torch.minimum(off, 1 - off)


@site_metric(title="TLC error", unit="probability", source=SOURCE, reads="normal", fewest=FEWEST)
def tlc(normal: Normal) -> float:
    """Φ(−|β|/|γ|), mean over channels, from the parameters of the batch norm that feeds the activation.

    Fidelity: where no batch norm feeds it directly (after a residual sum, in transformers) β and |γ| are the mean and
    deviation that its input had on the data.
    """
    return float(collapse_error(normal).mean())


@site_metric(title="TLC error (seen)", unit="probability", source=SOURCE, fewest=FEWEST)
def tlc_seen(stat: Switches) -> float:
    """Φ(−|mean|/deviation) of the input on the data, mean over channels, whatever feeds the activation."""
    return float(collapse_error(stat.normal()).mean())
