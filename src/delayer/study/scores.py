"""scores.json and scan.json: what metrics say, and what each span would cost."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator, model_validator

from delayer.study.plugins import Naming
from delayer.study.record import Count, Index, Measurement, Record, Seed


class Score(Record):
    """What one metric says about a network."""

    name: str
    title: str
    shape: Literal["pairs", "blocks", "spans", "network"]
    """pairs: values[i][j] between points; blocks: values[b]; spans: values[i][j] for the span from point i to j > i;
    network: the numbers that the labels name, of which the first is what networks are compared by."""
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    redundant: Literal["high", "low"]
    """Whether high or low values mean redundancy."""
    unit: str
    source: str
    rows: str
    """Row policy, such as 'each:0.25', 'mean', 'first', 'last'."""
    num_samples: Count
    fewest: Count = 0
    """Samples under which this metric warns."""
    seed: Seed
    data: str
    model: str = ""
    """Which network; other networks stand beside the study's own for comparison."""
    warnings: tuple[str, ...] = ()
    """What to know before trusting it."""

    @model_validator(mode="after")
    def _has_its_shape(self) -> "Score":
        matrix, num_labels = self.shape in ("pairs", "spans"), len(self.labels)
        rows = self.values if matrix else (self.values,)
        if not all(isinstance(row, tuple | list) and all(_is_number(value) for value in row) for row in rows):
            raise ValueError(f"the values of {self.name} are not all numbers")
        if matrix and {len(row) for row in rows} | {len(rows)} != {num_labels}:
            raise ValueError(f"{self.name} of shape {self.shape} needs a square of {num_labels} values, one for each label")
        if self.shape == "network" and not (self.values and len(self.values) == num_labels and self.values[0] is not None):
            raise ValueError(f"{self.name} has {len(self.values)} values for {num_labels} labels")
        return self

    @property
    def named(self) -> dict[str, Any]:
        """The numbers of a score of the whole network, by name."""
        return dict(zip(self.labels, self.values, strict=True))


def _is_number(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, float)
        or (isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 10**18)
    )


class RankedBlock(Record):
    """A row of a ranking."""

    block: Index
    path: str = ""
    mean_rank: float
    ranks: dict[str, float]
    """By the title of the metric."""


class Correlation(Record):
    """How alike a metric's matrices of one network are on two data sets."""

    metric: str
    first: str
    second: str
    num_pairs: Count = 0
    pearson: float | None = None
    spearman: float | None = None


class Scores(Naming):
    """scores.json: all metrics on all data sets."""

    scores: tuple[Score, ...]
    ranking: tuple[dict[str, Any], ...]
    """A row a block, most redundant first: block, label, rank by each metric, mean rank."""
    disagreements: tuple[str, ...]
    networks: tuple[Score, ...] = ()
    """Scores of whole networks, this one's and those it was compared with, the most redundant first."""
    correlations: tuple[dict[str, Any], ...] = ()
    """Between the similarity matrices of two data sets: metric, first, second, pearson, spearman."""

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (("metric", one.name) for one in (*self.scores, *self.networks))

    @field_validator("ranking")
    @classmethod
    def _ranking(cls, rows: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        blocks = [RankedBlock.model_validate(row).block for row in rows]
        if len(set(blocks)) < len(blocks):
            raise ValueError("a block stands twice in the ranking")
        return rows

    @field_validator("correlations")
    @classmethod
    def _correlations(cls, rows: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for row in rows:
            Correlation.model_validate(row)
        return rows

    @model_validator(mode="after")
    def _of_networks(self) -> "Scores":
        if any(one.shape == "network" for one in self.scores) or any(one.shape != "network" for one in self.networks):
            raise ValueError("scores of blocks and scores of whole networks are mixed up")
        return self


class SpanDamage(Record):
    """The predicted damage of one operator on one span."""

    start: Index
    stop: Index
    operator: str
    options: dict[str, int | float | str] = {}
    """The operator's options."""
    title: str = ""
    """The operator for people, with the options that tell it from others of its kind."""
    residual: Measurement
    """Relative residual on held-out rows: squared error over the centred energy of the target."""
    residual_fit: Measurement
    """The same on the rows that the map was fitted to."""
    params_saved: int
    macs_saved: int | None
    blocks_saved: Index

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, data: Any) -> Any:
        """Which knew a ridge and a rank only."""
        if not isinstance(data, dict) or not data.keys() & {"ridge", "rank"}:
            return data
        options = {name: data[name] for name in ("ridge", "rank") if data.get(name) is not None}
        title = f"{data.get('operator')} {options.get('rank', '')}".replace("_", " ").strip()
        return {key: value for key, value in data.items() if key not in ("ridge", "rank")} | {"options": options, "title": title}

    @model_validator(mode="after")
    def _is_a_span(self) -> "SpanDamage":
        if self.start >= self.stop:
            raise ValueError(f"span {self.start}:{self.stop} is empty")
        if max(abs(self.params_saved), abs(self.macs_saved or 0)) > 10**18:
            raise ValueError(f"span {self.start}:{self.stop} saves more than there can be")
        return self


class Scan(Naming):
    """scan.json: every operator on every span, judged on held-out rows."""

    rows: str
    num_rows_fit: Count
    num_rows_heldout: Count
    spans: tuple[SpanDamage, ...]
    failed: tuple[str, ...] = ()
    """Spans that maps, or all operators, were refused for, and why."""

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (("operator", one.operator) for one in self.spans)
