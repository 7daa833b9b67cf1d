"""MSRS, the model structural redundancy score: how many pairs of layers say the same, counted softly."""

import torch
from torch import Tensor

TAU, BETA = 0.8, 100.0


def msrs_of(similarities: Tensor, *, tau: float = TAU, beta: float = BETA) -> Tensor:
    """The score [...] of similarities [..., layers, layers]: Σ_{i<j} sigmoid(2β(s_ij − τ)), from 0 to L(L − 1)/2.

    A similarity that is NaN counts as none. A single layer has no pair, and scores 0.
    Source: Lu et al. 2024 (RedTest), arXiv 2411.10507.
    Fidelity: the released code writes the same as a quotient of exponentials, which overflows for s < −0.087.
    """
    above = torch.triu(torch.ones(similarities.shape[-2:], dtype=torch.bool, device=similarities.device), diagonal=1)
    pairs = similarities[..., above].double().nan_to_num(nan=-torch.inf)
    return torch.sigmoid(2 * beta * (pairs - tau)).sum(-1)
