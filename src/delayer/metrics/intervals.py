"""How sure a mean over a few values is."""

import math
import statistics
from collections.abc import Sequence

_T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Student's t, 97.5th percentile, for 1 to 10 degrees of freedom."""


def t_975(freedom: int) -> float:
    """Student's t, 97.5th percentile; above ten degrees of freedom by its expansion about the normal's (to 1e-3).

    Source: Abramowitz and Stegun 1964, 26.7.5.
    """
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = 1.959964
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of a mean, by Student's t over the values; (None, None) for fewer than two."""
    if len(values) < 2:
        return None, None
    mean = statistics.fmean(values)
    half = t_975(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half
