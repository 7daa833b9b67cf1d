"""The best of several by measured damage, where what forward passes cannot tell apart is a tie.

Damage is a divergence in nats, worked out in float64 from what a network computed in float32. Rounding moves a deep
network's log-probabilities by about δ = 1e-4 (a hundred roundings of numbers near ten), and so a divergence k by up to
δ √(2k) + δ² (Hölder's and Pinsker's inequalities). Damages closer than that to the least are equal: then the choice
that takes the least away wins, and of those the simplest one.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

NOISE = 1e-4
"""δ, nats: what float32 forward passes leave unsure in a log-probability."""
T = TypeVar("T")


def noise_of(damage: float) -> float:
    """How far rounding may have moved a damage."""
    return NOISE * math.sqrt(2 * max(damage, 0.0)) + NOISE**2


def as_good(damage: float, least: float) -> bool:
    """Whether a damage cannot be told from the least; infinity, which stands for what failed, equals infinity alone."""
    return damage <= least or (damage <= least + noise_of(damage) and math.isfinite(damage))


def best_of(options: Iterable[T], damage: Callable[[T], float], order: Callable[[T], Any] = lambda option: 0) -> T:
    """The option of least damage; among those that tie with it the first in `order`, then in the order given.

    order: what orders options that tie, such as (what it takes away, what it puts in place). NaN is the worst damage.
    Raises ValueError where there is no option.
    """
    found = [(option, math.inf if math.isnan(value := damage(option)) else value) for option in options]
    least = min(value for _, value in found)
    return min((option for option, value in found if as_good(value, least)), key=order)


def best_first(options: Iterable[T], damage: Callable[[T], float], order: Callable[[T], Any] = lambda option: 0) -> list[T]:
    """All options, each the `best_of` of itself and those behind it."""
    left, found = list(options), []
    while left:
        found.append(best_of(left, damage, order))
        left = [option for option in left if option is not found[-1]]
    return found
