"""Regularised (ageing) evolution: the youngest trials are the population, so that age, not weakness, removes."""

from delayer.nas.strategies import most_accurate, strategy


@strategy(
    rule="mutates the best of {tournament} drawn from the latest {population} trials; the best validation accuracy wins",
    source="Real et al. 2019, arXiv 1802.01548; population and sample as in Dong & Yang 2020, arXiv 2001.00326",
)
def evolution(space, seen, taken, rng, options):
    """A random candidate until the population is full, then a mutated winner of a tournament.

    A tournament draws with replacement, as in the paper. Fidelity: several workers share one population, so a child's
    parent is whatever has finished when it is asked for.
    """
    if len(seen) < options.population:
        return space.draw(rng)
    drawn = rng.choices(seen[-options.population :], k=options.tournament)
    return space.mutate(most_accurate(drawn).candidate, rng)
