"""What one network answers on one split: what grades and comparisons need of it."""

from dataclasses import dataclass

from torch import Tensor

from delayer.tasks.options import Kind


@dataclass(frozen=True, eq=False)
class Outputs:
    """Answers, row by row. A row is a sample, or a predicted token of a causal language model.

    sample: number of the sample that each row belongs to. top1: the likeliest class or token of each row,
    among the split's classes. truth: each row's label or next token, for regression its targets [samples, numbers];
    None without labels. nll: negative log-likelihood of each next token, nats; None but for networks that write text.
    values: log-probabilities [kept, classes] of the rows numbered in `kept`, which are drawn at random but
    the same for every network; for embeddings the pooled vectors [samples, width], for regression the numbers
    [samples, numbers], and `output` says which output each number belongs to.
    among: how many classes top1 was chosen from, where that is not the whole head. notes: what the user should know.
    """

    kind: Kind
    split: str
    num_samples: int
    sample: Tensor
    top1: Tensor
    truth: Tensor | None
    nll: Tensor | None
    kept: Tensor
    values: Tensor
    notes: tuple[str, ...] = ()
    among: int | None = None
    output: Tensor | None = None
