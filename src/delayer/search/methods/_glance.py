"""A small batch, for what is seen in the structure of a network and not in numbers of many samples."""

from torch import Tensor

from delayer.network.calling import example_of
from delayer.search.subject import Subject
from delayer.tasks import Batch

MOST_TOKENS = 64


def glance(subject: Subject) -> Batch:
    """The first sample of the fit split; of a text its first tokens."""
    inputs = example_of(subject.example, 1)
    if not isinstance(inputs, Tensor) and all(value.ndim == 2 for value in inputs.values()):
        inputs = {name: value[:, :MOST_TOKENS] for name, value in inputs.items()}
    return Batch(inputs, None, 0)
