"""Random search."""

from delayer.nas.strategies import strategy


@strategy(
    rule="draws uniformly, dead and repeated candidates included; the best validation accuracy wins",
    source="Bergstra & Bengio 2012, JMLR 13; Li & Talwalkar 2019, arXiv 1902.07638",
)
def random_search(space, seen, taken, rng, options):
    """Any candidate."""
    return space.draw(rng)
