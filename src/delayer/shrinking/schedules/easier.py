"""EASIER: the activation with the lowest state entropy becomes the identity."""

from typing import Literal

from delayer.metrics.activations.easier import easier as entropy
from delayer.shrinking.look import Look
from delayer.shrinking.schedules import Chosen, schedule
from delayer.study import Record


class EasierOptions(Record):
    """Which statistics count."""

    variant: Literal["paper", "released"] = "paper"
    """EASIER's statistics as its paper or as its released code computes them."""


@schedule("easier", source="Quétu et al., ECML PKDD 2024, arXiv 2404.18949", options=EasierOptions)
def easier(look: Look, most: int) -> Chosen:
    """Fidelity: one activation a round as in the paper, more where asked; the paper's full retraining is `--epochs`.

    The released code counts in training mode while the last epoch goes on; the variant "released" counts in training mode
    with the weights that the last epoch left, so that a killed run goes on to the same result.
    """
    variant = look.own(EasierOptions).variant
    stats = look.training_stats if variant == "released" else look.stats
    values = {site: entropy(stats[site.path], variant) for site in look.sites}
    chosen = sorted(look.sites, key=values.__getitem__)[:most]
    return [look.edit(site, "identity") for site in chosen], f"lowest entropy {values[chosen[0]]:.3f} bits"
