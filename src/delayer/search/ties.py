"""The best of several by measured damage, where what forward passes cannot tell apart is a tie.

Damage is a divergence in nats, worked out in float64 from what a network computed in float32. Rounding moves a deep
network's log-probabilities by about δ = 1e-4 (a hundred roundings of numbers near ten), and so a divergence k by up to
δ √(2k) + δ² (Hölder's and Pinsker's inequalities). Damages closer than that to the least are equal: then the choice
that takes the least away wins, and of those the simplest one. Only where they begin sets such options apart, a finer look
decides: what changes nothing goes before what changes an answer of small logits by little.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

NOISE = 1e-4
"""δ, nats: what float32 forward passes leave unsure in a log-probability."""
FINE = 1e-8
"""δ, nats, of a network of small logits: what few roundings leave unsure."""
T = TypeVar("T")


class Order(NamedTuple):
    """What orders options that tie: first what they cost, last where they are, which says nothing of how good they are."""

    cost: tuple
    place: Any


def noise_of(damage: float, noise: float = NOISE) -> float:
    """How far rounding may have moved a damage."""
    return noise * math.sqrt(2 * max(damage, 0.0)) + noise**2


def as_good(damage: float, least: float, noise: float = NOISE) -> bool:
    """Whether a damage cannot be told from the least; infinity, which stands for what failed, equals infinity alone."""
    return damage <= least or (damage <= least + noise_of(damage, noise) and math.isfinite(damage))


def best_of(options: Iterable[T], damage: Callable[[T], float], order: Callable[[T], Any] = lambda option: 0) -> T:
    """The option of least damage; among those that tie with it the first in `order`, then in the order given.

    order: what orders options that tie, such as (what it takes away, what it puts in place), or an `Order`: of options of the
    same cost those win that a finer look finds best, then the first place. NaN is the worst damage.
    Raises ValueError where there is no option.
    """
    found = [(option, math.inf if math.isnan(value := damage(option)) else value) for option in options]
    least = min(value for _, value in found)
    tied = [(option, value, order(option)) for option, value in found if as_good(value, least)]
    cheapest = min(_cost(rank) for _, _, rank in tied)
    tied = [each for each in tied if _cost(each[2]) == cheapest]
    least = min(value for _, value, _ in tied)
    return min((each for each in tied if as_good(each[1], least, FINE)), key=lambda each: each[2])[0]


def _cost(rank: Any) -> Any:
    return rank.cost if isinstance(rank, Order) else rank


def best_first(options: Iterable[T], damage: Callable[[T], float], order: Callable[[T], Any] = lambda option: 0) -> list[T]:
    """All options, each the `best_of` of itself and those behind it."""
    left, found = list(options), []
    while left:
        found.append(best_of(left, damage, order))
        left = [option for option in left if option is not found[-1]]
    return found
