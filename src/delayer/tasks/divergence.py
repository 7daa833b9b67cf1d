"""How far apart two distributions are."""

from torch import Tensor
from torch.nn import functional as F

CHUNK = 4_000_000
"""Numbers that are worked on at once."""


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row, nats, from log-probabilities or logits, worked out in float64."""
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
