"""Entropy of counted states."""

import torch
from torch import Tensor


def entropy(counts: Tensor) -> Tensor:
    """Bits −Σ p log₂ p [..., channels] of counts [..., states, channels]; 0 where nothing was counted."""
    p = counts.double() / counts.sum(-2, keepdim=True).clamp_min(1)
    return -torch.where(p > 0, p * p.clamp_min(1e-300).log2(), 0.0).sum(-2).clamp_max(0)


def signs(counts: Tensor) -> Tensor:
    """Counts [..., states, channels] without those at zero, which decide nothing.

    Off and on, and the outer pieces of a saturating activation: a ReLU6 at 6 is not linear. For every other activation
    the outer states are empty, and the entropy is the binary one.
    """
    off, _, on, above, below = counts.unbind(-2)
    return torch.stack([off, on, above, below], -2)
