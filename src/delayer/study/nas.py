"""The frozen records of an architecture search, and the file that holds them: nas.json, or nas_table.json."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from delayer.study.grade import Grade
from delayer.study.plugins import Naming
from delayer.study.record import Count, Index, Record, Sealed, Seed


class NasTrial(Record):
    """One candidate of a search and what its short training showed."""

    slot: Index
    """Its place in the search, from 0."""
    candidate: str
    key: str
    """The same for candidates that are the same network."""
    state: Literal["trained", "dead", "failed"]
    """dead: no live path from input to output, so it was not trained. failed: see `error`."""
    accuracy: float | None = Field(default=None, ge=0, le=100)
    """Top-1 on validation data after the short training, %; chance for a dead candidate."""
    msrs: float | None = None
    """Redundancy on validation data, from 0 to L(L − 1)/2 for L layers."""
    msrs_share: float | None = None
    """The same as a share of that maximum."""
    params: Count | None = None
    macs: Count | None = None
    """Multiply-adds of one sample."""
    latency_ms: float | None = None
    """Median over interleaved runs of all trained candidates, after the search."""
    seconds: float = 0.0
    """What training and scoring took; 0 where an earlier trial of the same network stands for it."""
    error: str = ""
    weights: str = ""
    """SHA-256 of the file that holds its weights after the short training."""
    attempts: Index = 1
    """More than one when a worker died with it."""

    @model_validator(mode="after")
    def _agrees(self) -> "NasTrial":
        if self.state != "failed" and (self.accuracy is None or self.params is None):
            raise ValueError(f"trial {self.slot} is {self.state} and has no accuracy or no parameters")
        return self


class NasResults(Sealed, Naming):
    """nas.json: a whole search."""

    format: Literal[1] = 1
    strategy: str
    rule: str
    """How candidates are drawn and the winner is picked, in one sentence."""
    options: dict[str, Any]
    trials: tuple[NasTrial, ...]
    front: tuple[Index, ...]
    """Slots that no other trial equals in everything and beats in something, best accuracy first."""
    winner: Index
    grade: Grade
    """Of the winner as it is saved, on test data that nothing was chosen by."""
    latency: str
    """How latency was measured."""
    versions: dict[str, str]
    num_failed: Index
    notes: tuple[str, ...] = ()

    def _words(self) -> Iterator[tuple[str, str]]:
        yield "search strategy", self.strategy

    @model_validator(mode="after")
    def _agrees(self) -> "NasResults":
        slots, trained = [trial.slot for trial in self.trials], {t.slot for t in self.trials if t.state == "trained"}
        if len(set(slots)) < len(slots):
            raise ValueError("two trials have the same slot")
        if strange := sorted({*self.front, self.winner} - trained):
            raise ValueError(f"slot {strange[0]} is on the front or won, and was not trained")
        return self


class Replay(Record):
    """What one strategy finds in a table, over many seeds; each pair is a 95 % bootstrap interval of the mean."""

    strategy: str
    rule: str
    accuracy: float
    """Mean test accuracy of the network found, %."""
    accuracy_interval: tuple[float, float]
    params: float
    """Mean parameters of the network found, in the table's unit."""
    params_interval: tuple[float, float]
    behind: float
    """Mean accuracy below the best strategy's, seed by seed, points."""
    behind_interval: tuple[float, float]


class NasTable(Sealed, Naming):
    """nas_table.json: strategies replayed on a table."""

    format: Literal[1] = 1
    columns: dict[str, str | None]
    num_candidates: Count
    num_trials: Count
    num_seeds: Count
    redundancy: str
    """What stood for redundancy, said plainly."""
    replays: tuple[Replay, ...] = Field(min_length=1)
    best_possible: float
    """The highest test accuracy in the table, %."""
    verdict: tuple[str, ...]
    """Winners and losers, in sentences."""
    seconds: float
    seed: Seed

    def _words(self) -> Iterator[tuple[str, str]]:
        yield from (("search strategy", one.strategy) for one in self.replays)
