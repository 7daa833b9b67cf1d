"""Redundancy metrics: one pure function a file, from a statistic to values.

A new file that calls `metric` has its command-line name, its plot, its column in the ranking and the tests of its
kind. Metrics see statistics, never models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from delayer.registry import Registry
from delayer.rows import Rows
from delayer.stats import Stat


@dataclass(frozen=True)
class Layout:
    """What a metric's statistic may know of a chain.

    groups: points of each segment, which share width and feature axis. rows: the family's row for whole samples.
    """

    num_points: int
    groups: tuple[tuple[int, ...], ...]
    rows: Rows


@dataclass(frozen=True)
class Metric:
    """A metric's facts and its function.

    shape: "pairs" (values [points, points], symmetric), "spans" (values [points, points] for the span from point i to
    point j > i, NaN elsewhere) or "blocks" (values [blocks]).
    redundant: whether "high" or "low" values mean redundancy.
    stat: builds the statistic that the function reads; metrics that build equal ones share one.
    """

    name: str
    title: str
    shape: Literal["pairs", "spans", "blocks"]
    redundant: Literal["high", "low"]
    unit: str
    source: str
    stat: Callable[[Layout], Stat]
    values: Callable[[Stat], Tensor]


metrics: Registry[Metric] = Registry("metric", "delayer.metrics")


def metric(*, title: str, shape: str, redundant: str, unit: str, source: str, stat: Callable[[Layout], Stat]
           ) -> Callable[[Callable[[Stat], Tensor]], Callable[[Stat], Tensor]]:
    """Register a function under its own name as a metric."""

    def add(values: Callable[[Stat], Tensor]) -> Callable[[Stat], Tensor]:
        name = values.__name__
        metrics.register(name)(Metric(name, title, shape, redundant, unit, source, stat, values))
        return values

    return add
