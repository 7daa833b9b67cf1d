"""Tokens with massive activations, which are left out of fits."""

from collections.abc import Sequence

import torch
from torch import Tensor

MASSIVE = 100.0
"""Tokens whose state holds so many times the energy of the batch's median are left out of fits.

A few tokens, the first above all, carry activations of hundreds of times the usual size (Sun et al. 2024, Massive
Activations in Large Language Models, arXiv 2402.17762), and least squares would serve them alone.
"""


def usual(state: Tensor, masks: Sequence[Tensor | None] = ()) -> Tensor | None:
    """Which rows [.., features] hold no massive activations; None where all of them are usual.

    masks: those of the batch; the one of the rows' shape says which are real, since padding may hold anything.
    """
    energy = state.float().square().sum(-1)
    real = next((mask.bool() for mask in masks if mask is not None and mask.shape == energy.shape), None)
    median = (energy if real is None else energy[real]).median()
    some = energy <= MASSIVE * median.clamp_min(torch.finfo(energy.dtype).tiny)
    return None if bool(some.all()) else some
