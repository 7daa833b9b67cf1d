"""The frozen records of an architecture search, and the file that holds them: nas.json, or nas_table.json."""

from typing import Any, Literal

from delayer.study.grade import Grade
from delayer.study.record import Record


class NasTrial(Record):
    """One candidate of a search and what its short training showed."""

    slot: int
    """Its place in the search, from 0."""
    candidate: str
    key: str
    """The same for candidates that are the same network."""
    state: Literal["trained", "dead", "failed"]
    """dead: no live path from input to output, so it was not trained. failed: see `error`."""
    accuracy: float | None = None
    """Top-1 on validation data after the short training, %; chance for a dead candidate."""
    msrs: float | None = None
    """Redundancy on validation data, from 0 to L(L − 1)/2 for L layers."""
    msrs_share: float | None = None
    """The same as a share of that maximum."""
    params: int | None = None
    macs: int | None = None
    """Multiply-adds of one sample."""
    latency_ms: float | None = None
    """Median over interleaved runs of all trained candidates, after the search."""
    seconds: float = 0.0
    """What training and scoring took; 0 where an earlier trial of the same network stands for it."""
    error: str = ""
    attempts: int = 1
    """More than one when a worker died with it."""


class NasResults(Record):
    """nas.json: a whole search."""

    format: Literal[1] = 1
    strategy: str
    rule: str
    """How candidates are drawn and the winner is picked, in one sentence."""
    options: dict[str, Any]
    trials: tuple[NasTrial, ...]
    front: tuple[int, ...]
    """Slots that no other trial equals in everything and beats in something, best accuracy first."""
    winner: int
    grade: Grade
    """Of the winner as it is saved, on test data that nothing was chosen by."""
    latency: str
    """How latency was measured."""
    versions: dict[str, str]
    num_failed: int
    notes: tuple[str, ...] = ()


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


class NasTable(Record):
    """nas_table.json: strategies replayed on a table."""

    format: Literal[1] = 1
    columns: dict[str, str | None]
    num_candidates: int
    num_trials: int
    num_seeds: int
    redundancy: str
    """What stood for redundancy, said plainly."""
    replays: tuple[Replay, ...]
    best_possible: float
    """The highest test accuracy in the table, %."""
    verdict: tuple[str, ...]
    """Winners and losers, in sentences."""
    seconds: float
    seed: int
