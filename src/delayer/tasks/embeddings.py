"""How far embeddings are from the original's: their cosines, and whether the same pairs are alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delayer.errors import DataError
from delayer.tasks.divergence import CHUNK, divergence

TEMPERATURE = 0.05
"""Of the softmax over cosine similarities, as in SimCSE (Gao, Yao, Chen 2021, arXiv:2104.08821)."""
MOST_RANKED = 2000
"""Samples whose pairs are ranked, the first ones: two million pairs."""


@dataclass(frozen=True, eq=False)
class Likeness:
    """Two networks' embeddings [n, width] of the same samples, compared.

    cosines: of each sample's two vectors [n]. kl: mean divergence between softmaxes over each sample's cosines to all others,
    at TEMPERATURE, nats. pair_correlation: Spearman's correlation between both networks' cosines of all pairs of samples; None
    where all pairs of one are alike.
    """

    cosines: Tensor
    kl: float
    pair_correlation: float | None


def likeness(mine: Tensor, theirs: Tensor) -> Likeness:
    """How alike embeddings are to the original's. Raises DataError for under three samples."""
    if (num := len(mine)) < 3:
        raise DataError(f"Embeddings are compared by the similarities of pairs, which takes 3 samples or more; found {num}.")
    # F.normalize takes lengths below 1e-12 for nothing.
    mine, theirs = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-300) for x in (mine.double(), theirs.double()))
    total = 0.0
    for rows in torch.arange(num).split(max(1, CHUNK // num)):
        others = torch.ones(len(rows), num, dtype=torch.bool).scatter_(1, rows[:, None], False)
        ours, original = ((x[rows] @ x.T)[others].view(len(rows), num - 1) for x in (mine, theirs))
        total += divergence(original / TEMPERATURE, ours / TEMPERATURE).sum().item()
    few = min(num, MOST_RANKED)
    pairs = torch.triu_indices(few, few, 1)
    first, second = ((x[:few] @ x[:few].T)[pairs[0], pairs[1]] for x in (mine, theirs))
    # Rounding would rank pairs that are equally alike.
    return Likeness((mine * theirs).sum(1), total / num, spearman(first.round(decimals=6), second.round(decimals=6)))


def spearman(x: Tensor, y: Tensor) -> float | None:
    """Rank correlation of two lists of numbers, equal ones sharing their mean rank; None where one list is all equal."""
    x, y = (_ranks(values) - (len(values) - 1) / 2 for values in (x, y))
    size = (x.square().sum() * y.square().sum()).sqrt().item()
    return None if size == 0 else max(-1.0, min(1.0, (x @ y).item() / size))


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts + 1) / 2)[place]
