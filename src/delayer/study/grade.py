"""How good a network is."""

from delayer.study.record import Count, Measurement, Record


class Grade(Record):
    """How good a network is on one split of one task."""

    name: str
    """Such as 'top-1 accuracy', 'top-1 accuracy among 10 classes', 'perplexity', 'agreement', 'cosine to the original', 'R²'."""
    unit: str
    value: Measurement
    higher_is_better: bool
    interval: tuple[Measurement, Measurement] | None = None
    """95 % interval by bootstrap over samples."""
    kl: Measurement | None = None
    """Mean Kullback-Leibler divergence from the original's output, nats; None for regression."""
    agreement: Measurement | None = None
    """Percent of samples or tokens that keep the original's answer; None for regression and embeddings."""
    cosine: Measurement | None = None
    """For embeddings: mean cosine of each sample's vector to the original's."""
    pair_correlation: Measurement | None = None
    """For embeddings: Spearman's correlation with the original of the similarities of all pairs of samples; None where all are
    equally alike."""
    error: Measurement | None = None
    """For regression: root mean squared distance from the original's numbers, as a share of how much those vary."""
    correlation: Measurement | None = None
    """For regression: Pearson's correlation with the original's numbers, mean over outputs; None where they never vary."""
    split: str
    num_samples: Count

    @property
    def distance(self) -> float | None:
        """How far the network is from the original: the divergence, for regression the squared relative error.

        Both grow with the square of a small change, so that what is predicted for several changes is nearly their sum.
        """
        return self.kl if self.error is None else self.error * self.error
