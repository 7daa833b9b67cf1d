"""What a shrinking is asked for."""

from typing import Annotated, Any, Literal

from pydantic import Field

from delayer.registry.options import OptionsOf
from delayer.study import Record

SCHEDULE_OPTIONS = OptionsOf("delayer.shrinking.schedules", "schedules")


class ShrinkOptions(Record):
    """How activations are chosen, how long each round trains, and when to stop."""

    schedule: str = "ours"
    """easier, tlc, nepenthe, folding, ours, or a baseline: random, last, magnitude."""
    tolerance: float = Field(default=1.0, ge=0)
    """Points that the validation grade may fall below the original's (percent of it for perplexity)."""
    remove: int = Field(default=0, ge=0)
    """Activations to remove; 0 goes on until the tolerance is reached."""
    speedup: float = Field(default=0.0, ge=0)
    """Stop once the network, merged, is so many times as fast as the original at the merge batch, such as 1.3; 0 for never."""
    a_round: int = Field(default=0, ge=0)
    """Most activations that one round removes; 0 takes the schedule's own: 1 for published ones, 4 for ours."""
    fill: bool = False
    """Whether a round removes as many as it may, also where its schedule would take fewer; for comparisons."""
    epochs: int = Field(default=1, ge=0)
    """Epochs of fine-tuning in a round."""
    optimizer: Literal["sgd", "adamw"] | None = None
    """sgd or adamw; by default sgd for networks with batch norms."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of a round; by default 0.01 under sgd and 1e-4 under adamw."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decay of a round's training."""
    merge_batch: int = Field(default=1, ge=1)
    """Batch size at which a merge must be faster to be made, and at which the speed-up is measured."""
    schedule_options: Annotated[dict[str, Any], SCHEDULE_OPTIONS] = {}
    """Options of the schedule, by name."""
