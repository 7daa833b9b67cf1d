"""candidates.json: cuts that were measured."""

from delayer.study.record import Record


class EditInfo(Record):
    """One edit as plain data, enough to draw it."""

    edit: str
    label: str
    spans: tuple[tuple[int, int], ...]
    operator: str = ""
    """What stands there now: "drop" for nothing, or the map's operator."""


class Measured(Record):
    """A candidate set of edits that was measured with the real network on validation data."""

    edits: tuple[EditInfo, ...]
    predicted: float
    """Additive damage predicted before measuring."""
    kl: float | None
    """Mean Kullback-Leibler divergence to the original's output, nats."""
    agreement: float
    """Share of outputs whose top-1 equals the original's, percent."""
    grade: float
    """The task's grade on validation data."""
    params: int
    macs: int | None
    latency_ms: float | None = None
    chosen: bool = False


class Candidates(Record):
    """candidates.json: what was measured before the plan was chosen, best first."""

    grade_name: str
    grade_unit: str
    higher_is_better: bool
    original_grade: float
    measured: tuple[Measured, ...]
