"""sites.json: activations and how much they switch."""

from typing import Any

from delayer.study.record import Record


class SiteInfo(Record):
    """One activation, and what the site metrics say of it."""

    path: str
    kind: str
    block: int | None
    """The block that it lies in."""
    num_features: int
    positions: int
    norm: str | None
    """The batch norm that feeds it directly."""
    states: dict[str, float]
    """Share of its inputs in each state, over all channels; empty without data."""
    values: dict[str, float | None]
    """By metric; low values mean that it hardly switches."""


class SiteMetricInfo(Record):
    """What a site metric is."""

    name: str
    title: str
    unit: str
    source: str


class Sites(Record):
    """sites.json: every activation in the order of execution, and how much it switches."""

    sites: tuple[SiteInfo, ...]
    metrics: tuple[SiteMetricInfo, ...]
    ranking: tuple[dict[str, Any], ...]
    """A row an activation, the one that switches least first: path, rank by each metric, mean rank."""
    num_samples: int
    """0 where norm parameters alone were read."""
    batch_size: int
    """Samples a chunk, of entropies that are means over batches."""
    data: str
    notes: tuple[str, ...] = ()
