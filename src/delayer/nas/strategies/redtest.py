"""RedTest's redundancy-aware search, in our reading.

Source: Lu et al. 2024, arXiv 2411.10507.
Fidelity: the paper judges candidates by 12-epoch accuracy and by MSRS; how it combines the two is not in its released
code. Our reading: among the `keep` best by 12-epoch validation accuracy the one with the smallest MSRS wins. Candidates
are drawn as for best by short training, with the same random numbers, so that the two differ in the pick alone.
"""

from collections.abc import Sequence

from delayer.nas.space import Seen
from delayer.nas.strategies import StrategyOptions, draw_new, strategy


def least_redundant_of_the_best(seen: Sequence[Seen], options: StrategyOptions) -> Seen:
    """Of the `keep` most accurate living trials the least redundant; of equals the more accurate, then the smaller."""
    living = sorted((one for one in seen if not one.dead), key=lambda one: (-one.accuracy, one.params, one.slot))
    return min(living[: options.keep], key=lambda one: (one.redundancy, -one.accuracy, one.params), default=seen[0])


@strategy(
    rule="draws living candidates that differ from all before; of the {keep} best by validation accuracy the least "
    "redundant wins (our reading of RedTest)",
    source="Lu et al. 2024 (RedTest), arXiv 2411.10507",
    pick=least_redundant_of_the_best,
)
def redtest(space, seen, taken, rng, options):
    """A candidate that computes something new."""
    return draw_new(space, taken, rng)
