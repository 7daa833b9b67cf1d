"""What a shrinking is asked for, and what each round of it did."""

from typing import Literal

from pydantic import Field

from delayer.edits.linearise import Linearise
from delayer.study import Grade, Record


class ShrinkOptions(Record):
    """How activations are chosen, how long each round trains, and when to stop."""

    schedule: str = "ours"
    """easier, tlc, nepenthe, folding, ours, or a baseline: random, last, magnitude."""
    tolerance: float = Field(1.0, ge=0)
    """Points that the validation grade may fall below the original's (percent of it for perplexity)."""
    remove: int = Field(0, ge=0)
    """Activations to remove; 0 goes on until the tolerance is reached."""
    a_round: int = Field(1, ge=1)
    """Most activations that one round removes."""
    epochs: int = Field(1, ge=0)
    """Epochs of fine-tuning in a round."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """sgd or adamw; by default sgd for networks with batch norms."""
    learning_rate: float | None = Field(None, gt=0)
    """Peak rate of a round; by default 0.01 under sgd and 1e-4 under adamw."""
    weight_decay: float = Field(1e-4, ge=0)
    """Decay of a round's training."""
    variant: Literal["paper", "released"] = "paper"
    """EASIER's statistics as its paper or as its released code computes them."""
    zeta: float = Field(0.25, gt=0, lt=1)
    """Share of the surviving weights that a round of NEPENTHE prunes."""
    data_free: bool = False
    """Whether TLC reads norm parameters where it can, instead of the data."""


class Round(Record):
    """One round."""

    number: int
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
    epochs: int
    seconds: float
    left: int
    """Activations that are still there after it."""


class Shrunk(Record):
    """What a shrinking did."""

    schedule: str
    original: Grade
    """On validation data."""
    grade: Grade
    """Of the network as it is now, on validation data."""
    num_sites: int
    edits: tuple[Linearise, ...]
    rounds: tuple[Round, ...]
    note: str
    """Why it stopped, in one sentence."""

    @property
    def num_removed(self) -> int:
        return len(self.edits)

    @property
    def num_epochs(self) -> int:
        return sum(one.epochs for one in self.rounds)
