"""candidates.json: cuts that were measured."""

from collections.abc import Iterator

from pydantic import field_validator

from delayer.study.plugins import Naming
from delayer.study.record import Count, Index, Measurement, Record


class EditInfo(Record):
    """One edit as plain data, enough to draw it."""

    edit: str
    label: str
    spans: tuple[tuple[Index, Index], ...]
    operator: str = ""
    """What stands there now: "drop" for nothing, or the map's operator."""

    @property
    def words(self) -> tuple[tuple[str, str], ...]:
        """Kind and name of what may be a plug-in's."""
        return ("edit", self.edit), ("operator", self.operator)

    @field_validator("spans")
    @classmethod
    def _spans(cls, spans: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if wrong := next((span for span in spans if span[0] >= span[1]), None):
            raise ValueError(f"span {wrong[0]}:{wrong[1]} is empty")
        return spans


class Measured(Record):
    """A candidate set of edits that was measured with the real network on validation data."""

    edits: tuple[EditInfo, ...]
    predicted: Measurement
    """Additive damage predicted before measuring."""
    kl: Measurement | None
    """Mean Kullback-Leibler divergence to the original's output, nats; None for regression."""
    agreement: Measurement | None = None
    """Share of outputs whose top-1 equals the original's, percent; None for regression and embeddings."""
    pair_correlation: Measurement | None = None
    """For embeddings: rank correlation with the original of the similarities of all pairs of samples."""
    error: Measurement | None = None
    """For regression: distance from the original's numbers, as a share of how much those vary."""
    correlation: Measurement | None = None
    """For regression: Pearson's correlation with the original's numbers."""
    grade: Measurement | None
    """The task's grade on validation data."""
    params: Count
    macs: Count | None
    latency_ms: float | None = None
    opens_in: str = ""
    """The library that opens what is left, besides delayer; "" for none."""
    closed: str = ""
    """Why none does; a clause."""
    onnx: bool | None = None
    """Whether a graph of one block of each kind that is left agrees with torch; None where that was not tried."""
    chosen: bool = False
    failed: str = ""
    """Why it could not be judged; then it has no grade."""


class Candidates(Naming):
    """candidates.json: what was measured before the plan was chosen, best first."""

    grade_name: str
    grade_unit: str
    higher_is_better: bool
    original_grade: Measurement
    library: str = ""
    """The library that made the network, and may open what is left of it; "" for a function of the user's own."""
    onnx_note: str = ""
    """How it was found which cuts export, and why some do not."""
    measured: tuple[Measured, ...]

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (word for one in self.measured for edit in one.edits for word in edit.words)
