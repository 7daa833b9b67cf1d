"""How good a network is."""

from delayer.study.record import Record


class Grade(Record):
    """How good a network is on one split of one task."""

    name: str
    """Such as 'top-1 accuracy', 'perplexity', 'agreement'."""
    unit: str
    value: float
    higher_is_better: bool
    interval: tuple[float, float] | None = None
    """95 % interval by bootstrap over samples."""
    kl: float | None = None
    agreement: float | None = None
    split: str
    num_samples: int
