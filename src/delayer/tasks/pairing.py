"""How much worse one network is than another on the very same samples, and how sure that is."""

import torch
from torch import Tensor

from delayer.tasks.grading import agreeing, mean_of
from delayer.tasks.outputs import Outputs
from delayer.tasks.regression import squared_errors


def worse_by(one: Outputs, other: Outputs, reference: Outputs, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """By how much the first is worse than the second, and the 95 % interval of that difference, paired by sample.

    In points of what grades count: percent of right answers, or without labels of answers that are the original's (of the cosine,
    for embeddings); nats a token of a language model; for regression percent of the squared error.
    one, other: on the same split. reference: the original's outputs there.
    """
    values = _badness(one, reference) - _badness(other, reference)
    scale = 1.0 if one.nll is not None else 100.0
    mean, interval = mean_of(values, one.sample, seed)
    low, high = interval or (float("-inf"), float("inf"))
    return scale * mean, (scale * low, scale * high)


def _badness(outputs: Outputs, reference: Outputs) -> Tensor:
    """Row by row, how bad an answer is."""
    if outputs.nll is not None:
        return outputs.nll.double()
    if outputs.kind == "regression":
        theirs = reference.values[: outputs.num_samples] if outputs.truth is None else outputs.truth
        output = torch.arange(outputs.values.shape[1]) if outputs.output is None else outputs.output
        return squared_errors(outputs.values, theirs, output)
    right = agreeing(outputs, reference) if outputs.truth is None else (outputs.top1 == outputs.truth).double()
    return 1.0 - right
