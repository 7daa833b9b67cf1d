"""How good a network is."""

from delayer.study.record import Count, Measurement, Record


class Grade(Record):
    """How good a network is on one split of one task."""

    name: str
    """Such as 'top-1 accuracy', 'perplexity', 'agreement'."""
    unit: str
    value: Measurement
    higher_is_better: bool
    interval: tuple[Measurement, Measurement] | None = None
    """95 % interval by bootstrap over samples."""
    kl: Measurement | None = None
    agreement: Measurement | None = None
    split: str
    num_samples: Count
