"""shrink.json and compare.json: activations made linear, round by round, and schedules side by side."""

from collections.abc import Iterator

from pydantic import model_validator

from delayer.study.cuts import EditInfo
from delayer.study.grade import Grade
from delayer.study.plugins import Naming
from delayer.study.record import Count, Index, Measurement, Record, Seed


class Round(Record):
    """One round of making activations linear."""

    number: Index
    """From 1."""
    sites: tuple[str, ...]
    """Activations that it made linear."""
    why: str
    """What the schedule read, in a few words."""
    before: Grade
    """On validation data, made linear but not yet trained."""
    after: Grade
    """On validation data, trained."""
    kept: bool
    """Whether it stayed; else the network is, bit for bit, what it was before."""
    epochs: Index
    seconds: float
    left: Index
    """Activations that are still there after it."""
    speedup: float | None = None
    """Original over the network as it is now, merged, paired; where a speed-up was asked for."""


class MergeInfo(Record):
    """Layers that follow one another and are linear: merged, or why not."""

    path: str
    """The module whose forward pass runs them."""
    layers: tuple[str, ...]
    repair: str = "none"
    """What made the border exact: none, constant_channel, bias_map or border_strip."""
    error: Measurement | None = None
    """Largest difference in float64 on whole images, border included, relative to the largest output."""
    before_ms: float | None = None
    after_ms: float | None = None
    speedup: float | None = None
    """Of these layers alone, their norms folded in, over the one layer; paired."""
    speedup_interval: tuple[float, float] | None = None
    merged: bool = False
    note: str = ""


class Shrunk(Naming):
    """shrink.json: how activations were made linear, round by round."""

    schedule: str
    original: Grade
    """On validation data."""
    grade: Grade
    """Of the network as it is now, on validation data."""
    num_sites: Index
    """Activations that there were."""
    edits: tuple[EditInfo, ...]
    rounds: tuple[Round, ...]
    note: str
    """Why it stopped, in one sentence."""
    merges: tuple[MergeInfo, ...] = ()

    def _words(self) -> Iterator[tuple[str, str]]:
        yield "schedule", self.schedule
        yield from (word for edit in self.edits for word in edit.words)

    @model_validator(mode="after")
    def _agrees(self) -> "Shrunk":
        if [one.number for one in self.rounds] != list(range(1, len(self.rounds) + 1)):
            raise ValueError("rounds are not numbered from 1 in their order")
        if wrong := next((one for one in self.rounds if one.left > self.num_sites), None):
            raise ValueError(f"round {wrong.number} leaves {wrong.left} of {self.num_sites} activations")
        return self

    @property
    def num_removed(self) -> int:
        """Activations that are linear now."""
        return self.num_sites - self.rounds[-1].left if self.rounds else 0

    @property
    def num_epochs(self) -> int:
        """Epochs of training, of all rounds together."""
        return sum(one.epochs for one in self.rounds)


class Compared(Record):
    """One schedule with one seed, after one of its rounds, on test data."""

    schedule: str
    seed: Seed
    num_removed: Index
    """Activations that are linear ("Rem.")."""
    num_epochs: Index
    """Of training, so far."""
    seconds: float
    """Of choosing and training, so far."""
    grade: Grade
    params: Count
    macs: Count | None
    num_merged: int = 0
    """Linear layers and convolutions fewer than the original has, after the last round."""
    latency_ms: float | None = None
    """Median at batch 1, after the last round."""
    speedup: float | None = None
    """Original over this, paired, after the last round."""


class Comparison(Naming):
    """compare.json: schedules under one protocol."""

    original: Grade
    """On test data."""
    num_sites: Index
    params: Count
    macs: Count | None
    rows: tuple[Compared, ...]

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (("schedule", row.schedule) for row in self.rows)
