"""Redundancy metrics: one pure function a file, from a statistic to values.

A new file that calls `metric` has its command-line name, its plot, its column in the ranking and the tests of its
kind. Metrics see statistics, never models.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from delayer.observing.rows import Rows
from delayer.observing.stats import Stat
from delayer.registry import Registry
from delayer.registry.options import own_options
from delayer.study import Record

Shape = Literal["pairs", "spans", "blocks", "network"]
Redundant = Literal["high", "low"]


@dataclass(frozen=True)
class Layout:
    """What a metric and its statistic may know of a chain.

    groups: points of each segment, which share width and feature axis. rows: the family's row for whole samples.
    outlets: the point behind each block. layers: where the outputs of the network's layers are seen, in order, and
    kinds: the class of each. pool: how the positions of a sample become one row where whole samples are compared.
    tau: the similarity from which on two layers of this family say the same.
    """

    num_points: int
    groups: tuple[tuple[int, ...], ...]
    rows: Rows
    outlets: tuple[int, ...] = ()
    layers: tuple[int | str, ...] = ()
    kinds: tuple[str, ...] = ()
    pool: Rows = Rows("mean")
    tau: float = 0.8


@dataclass(frozen=True)
class Metric:
    """A metric's facts and its function.

    shape: "pairs" (values [points, points], symmetric), "spans" (values [points, points] for the span from point i to
    point j > i, NaN elsewhere), "blocks" (values [blocks], NaN where there is nothing to say) or "network" (named
    numbers; networks are compared by the first, whose name the unit goes on, and "low" and "high" are its interval).
    redundant: whether "high" or "low" values mean redundancy.
    stat: builds the statistic that the function reads; metrics that build equal ones share one.
    fewest: samples under which it warns, since what it says is mostly chance then.
    values: the function. Besides the statistic it may ask, by keyword, for `layout` and for any of its options.
    warnings: sentences that a reader should know before trusting the values; asks in the same way.
    options: a record of its options, each of which becomes an option of `delayer score`.
    """

    name: str
    title: str
    shape: Shape
    redundant: Redundant
    unit: str
    source: str
    stat: Callable[[Layout], Stat]
    values: Callable[..., Tensor | dict[str, float]]
    fewest: int
    warnings: Callable[..., Iterable[str]] | None = None
    options: type[Record] | None = None

    def read(self, stat: Stat, layout: Layout, options: Mapping[str, Any] | None = None) -> Tensor | dict[str, float]:
        """The values, from a statistic that was filled."""
        return _ask(self.values, stat, layout, self.own(options))

    def own(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Its options, out of those that were given to all. Raises PlugInError for a value that does not do."""
        return {} if self.options is None else own_options(self.options, given or {}).model_dump()

    def warn(self, stat: Stat, layout: Layout, options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """What a reader should know before trusting the values."""
        own = tuple(_ask(self.warnings, stat, layout, self.own(options))) if self.warnings else ()
        if own or stat.num_rows >= self.fewest:
            return own
        return (
            f"{self.title} was read from {stat.num_rows} samples; under {self.fewest} it is mostly chance. Give more data "
            "(--num-fit).",
        )


def _ask(function: Callable, stat: Stat, layout: Layout, options: Mapping[str, Any]) -> Any:
    known = {**options, "layout": layout}
    return function(stat, **{name: known[name] for name in inspect.signature(function).parameters if name in known})


metrics: Registry[Metric] = Registry("metric", "delayer.metrics.blocks")


def metric(
    *,
    title: str,
    shape: Shape,
    redundant: Redundant,
    unit: str,
    source: str,
    stat: Callable[[Layout], Stat],
    fewest: int,
    warnings: Callable[..., Iterable[str]] | None = None,
    options: type[Record] | None = None,
) -> Callable[[Callable], Callable]:
    """Register a function under its own name as a metric."""

    def add(values: Callable) -> Callable:
        name = values.__name__
        metrics.register(name, values)(
            Metric(name, title, shape, redundant, unit, source, stat, values, fewest, warnings, options)
        )
        return values

    return add
