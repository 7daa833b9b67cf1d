"""Entropy as NEPENTHE reads it."""

from delayer.activations.switches import Switches
from delayer.metrics.activations import site_metric
from delayer.metrics.activations._entropy import entropy, signs


@site_metric(title="NEPENTHE entropy", unit="bits", source="Liao et al. 2024 (NEPENTHE), arXiv 2404.16890")
def nepenthe(stat: Switches) -> float:
    """Entropy of the input's sign over the whole data, mean over channels whose entropy is not zero; 0 where all are.

    Inputs at exactly zero leave the statistics. Fidelity: a saturating activation's outer pieces count as states of
    their own.
    """
    found = entropy(signs(stat.counts()))
    return float(found.sum() / (found > 0).sum().clamp_min(1))
