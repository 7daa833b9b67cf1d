"""TLC: the activation whose cheap edit (pass mostly-ON channels, zero mostly-OFF ones) costs the least loss."""

from delayer.activations.counting import normal_of
from delayer.activations.sites import Site
from delayer.metrics.activations.tlc import tlc as error_likelihood
from delayer.shrinking.look import Look
from delayer.shrinking.schedules import Chosen, schedule
from delayer.study import Record


class TlcOptions(Record):
    """What is read."""

    data_free: bool = False
    """Whether TLC reads norm parameters where it can, instead of the data."""


@schedule("tlc", source="Liao et al., AAAI 2025, arXiv 2412.15077", options=TlcOptions)
def tlc(look: Look, most: int) -> Chosen:
    """The released rule: each activation's loss gap; where the smallest is negative, the first set whose gap crosses zero.

    Fidelity: the gap is over the whole validation split, in the code over one batch. With `data_free` the score from norm
    parameters alone chooses, as the paper describes.
    """
    edits = {site: look.edit(site, "sign") for site in look.sites}
    if look.own(TlcOptions).data_free:
        scores = {site: score_of(look, site) for site in look.sites}
        chosen = sorted(look.sites, key=scores.__getitem__)[:most]
        return [edits[site] for site in chosen], f"error likelihood {scores[chosen[0]]:.3f}"
    loss = look.loss()
    gaps = {site: look.loss([edits[site]]) - loss for site in look.sites}
    order = sorted(look.sites, key=gaps.__getitem__)
    chosen = order[:most] if look.options.fill else order[:1]
    if not look.options.fill and gaps[order[0]] < 0:
        for count in range(2, most + 1):
            if look.loss([edits[site] for site in order[:count]]) - loss > 0:
                chosen = order[:count]
                break
    return [edits[site] for site in chosen], f"loss gap {gaps[order[0]]:+.4f}"


def score_of(look: Look, site: Site) -> float:
    """Mean error likelihood of a site's channels, from its norm where it has one, else from empirical moments."""
    return error_likelihood(normal_of(look.chain, site, look.stats.__getitem__))
