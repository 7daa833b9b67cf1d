"""Entropy as EASIER reads it: as its paper says, and as its released code computes it."""

from typing import Literal

import torch

from delayer.activations.switches import Switches
from delayer.metrics.activations import site_metric
from delayer.metrics.activations._entropy import entropy, signs

SOURCE = "Quétu et al. 2024 (EASIER), arXiv 2404.18949"


@site_metric(title="EASIER entropy", unit="bits", source=SOURCE)
def easier(stat: Switches, variant: Literal["paper", "released"] = "paper") -> float:
    """Entropy of the input's sign over the whole data, mean over all channels; or the released code's form.

    Inputs at exactly zero leave the statistics. Fidelity: the paper's form; a saturating activation's outer pieces count
    as states of their own.
    """
    return easier_released(stat) if variant == "released" else float(entropy(signs(stat.counts())).mean())


@site_metric(title="EASIER entropy (released code, evaluation mode)", unit="bits", source=SOURCE)
def easier_released(stat: Switches) -> float:
    """Two states, ON where z ≥ 0: entropy for each batch and channel, mean over all channels and batches.

    Fidelity: the released code counts in training mode on the batches of the last epoch. From statistics that were
    gathered so, this is its value; from a plain scan it is the evaluation-mode form.
    """
    off, zero, on, above, below = stat.counts_by_chunk().unbind(1)
    return float(entropy(torch.stack([off + below, zero + on + above], 1)).mean())
