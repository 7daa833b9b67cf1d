"""scores.json and scan.json: what metrics say, and what each span would cost."""

from typing import Any, Literal

from delayer.study.record import Record


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
    num_samples: int
    seed: int
    data: str
    model: str = ""
    """Which network; other networks stand beside the study's own for comparison."""
    warnings: tuple[str, ...] = ()
    """What to know before trusting it."""

    @property
    def named(self) -> dict[str, Any]:
        """The numbers of a score of the whole network, by name."""
        return dict(zip(self.labels, self.values, strict=True))


class Scores(Record):
    """scores.json: all metrics on all data sets."""

    scores: tuple[Score, ...]
    ranking: tuple[dict[str, Any], ...]
    """A row a block, most redundant first: block, label, rank by each metric, mean rank."""
    disagreements: tuple[str, ...]
    networks: tuple[Score, ...] = ()
    """Scores of whole networks, this one's and those it was compared with, the most redundant first."""
    correlations: tuple[dict[str, Any], ...] = ()
    """Between the similarity matrices of two data sets: metric, first, second, pearson, spearman."""


class SpanDamage(Record):
    """The predicted damage of one operator on one span."""

    start: int
    stop: int
    operator: str
    ridge: float | None
    rank: int | None = None
    residual: float
    """Relative residual on held-out rows: squared error over the centred energy of the target."""
    residual_fit: float
    """The same on the rows that the map was fitted to."""
    params_saved: int
    macs_saved: int | None
    blocks_saved: int


class Scan(Record):
    """scan.json: every operator on every span, judged on held-out rows."""

    rows: str
    num_rows_fit: int
    num_rows_heldout: int
    spans: tuple[SpanDamage, ...]
