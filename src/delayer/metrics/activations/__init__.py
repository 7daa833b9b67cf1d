"""Metrics of single activations: one published score a file, from what was counted to one number.

A new file that calls `site_metric` has its name in `delayer sites` and `delayer list`. Like all metrics they see
statistics, never models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from delayer.activations.normal import Normal
from delayer.activations.switches import Switches
from delayer.registry import Registry

Reads = Literal["switches", "normal"]
FEWEST = 100
"""Samples: a share of one half is known to 0.05 (standard error) then."""


@dataclass(frozen=True)
class SiteMetric:
    """A metric's facts and its function.

    reads: "switches" (counts and sums from data) or "normal" (the input's distribution: a batch norm's parameters
    where one feeds the activation directly, else what was seen).
    fewest: samples under which a note warns; 0 for what needs no data.
    value: the score of one activation; low values mean that it hardly switches.
    """

    name: str
    title: str
    unit: str
    source: str
    reads: Reads
    fewest: int
    value: Callable[[Switches | Normal], float]


site_metrics: Registry[SiteMetric] = Registry("site metric", "delayer.metrics.activations")


def site_metric(
    *, title: str, unit: str, source: str, reads: Reads = "switches", fewest: int = FEWEST
) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Register a function under its own name as a site metric."""

    def add(value: Callable[..., float]) -> Callable[..., float]:
        name = value.__name__
        site_metrics.register(name, value)(SiteMetric(name, title, unit, source, reads, fewest, value))
        return value

    return add
