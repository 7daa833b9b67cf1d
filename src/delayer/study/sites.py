"""sites.json: activations and how much they switch."""

from collections.abc import Iterator
from typing import Any

from pydantic import field_validator, model_validator

from delayer.study.plugins import Naming
from delayer.study.record import Count, Index, Measurement, Record, Size


class SiteInfo(Record):
    """One activation, and what the site metrics say of it."""

    path: str
    kind: str
    block: Index | None
    """The block that it lies in."""
    num_features: Count
    positions: Count
    norm: str | None
    """The batch norm that feeds it directly."""
    states: dict[str, Measurement]
    """Share of its inputs in each state, over all channels; empty without data."""
    values: dict[str, Measurement | None]
    """By metric; low values mean that it hardly switches."""


class SiteMetricInfo(Record):
    """What a site metric is."""

    name: str
    title: str
    unit: str
    source: str
    fewest: Count = 0
    """Samples under which a note warns."""


class RankedSite(Record):
    """A row of a ranking."""

    path: str
    ranks: dict[str, float]
    """By the name of the metric."""
    mean_rank: float | None


class Sites(Naming):
    """sites.json: every activation in the order of execution, and how much it switches."""

    sites: tuple[SiteInfo, ...]
    metrics: tuple[SiteMetricInfo, ...]
    ranking: tuple[dict[str, Any], ...]
    """A row an activation, the one that switches least first: path, rank by each metric, mean rank."""
    num_samples: Count
    """0 where norm parameters alone were read."""
    batch_size: Size
    """Samples a chunk, of entropies that are means over batches."""
    data: str
    notes: tuple[str, ...] = ()

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (("site metric", one.name) for one in self.metrics)

    @field_validator("ranking")
    @classmethod
    def _ranking(cls, rows: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for row in rows:
            RankedSite.model_validate(row)
        return rows

    @model_validator(mode="after")
    def _agrees(self) -> "Sites":
        paths, ranked = [site.path for site in self.sites], [row["path"] for row in self.ranking]
        if len(set(paths)) < len(paths) or sorted(paths) != sorted(ranked):
            raise ValueError(f"the ranking does not hold each of the {len(paths)} activations once")
        if wrong := next((site for site in self.sites if any(m.name not in site.values for m in self.metrics)), None):
            raise ValueError(f"{wrong.path} lacks a value of one of the metrics")
        return self
