"""Best by short training: the whole budget goes into different, living networks, and accuracy alone decides."""

from delayer.nas.strategies import draw_new, strategy


@strategy(
    rule="draws living candidates that differ from all before; the best validation accuracy wins",
    source="Dong & Yang 2020, arXiv 2001.00326 (12-epoch validation accuracy as the signal)",
)
def short_training(space, seen, taken, rng, options):
    """A candidate that computes something new."""
    return draw_new(space, taken, rng)
