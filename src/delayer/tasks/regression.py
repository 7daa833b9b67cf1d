"""How far numbers are from other numbers: relative error and correlation, output by output."""

import math

import torch
from torch import Tensor

NUMBERS = 1024
"""Of each sample's answer at most; larger ones (maps, heat maps) are compared at so many places, drawn once for all."""


def numbers_of(answer: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers [n, numbers] of answers, and the output that each belongs to [numbers].

    Answers are [n], [n, outputs], [n, places, outputs] or [n, outputs, h, w].
    """
    answer = answer[:, None] if answer.ndim == 1 else answer
    axis = 1 if answer.ndim > 3 else answer.ndim - 1
    num = answer.shape[axis]
    shape = [num if k == axis else 1 for k in range(1, answer.ndim)]
    output = torch.arange(num).view(shape).expand(answer.shape[1:]).flatten()
    flat = answer.flatten(1)
    if flat.shape[1] > NUMBERS:
        places = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))[:NUMBERS].sort().values
        flat, output = flat[:, places.to(flat.device)], output[places]
    return flat, output


def squared_errors(found: Tensor, wanted: Tensor, output: Tensor) -> Tensor:
    """Squared relative error of each sample [n], whose mean is 1 − R² (each output weighs the same).

    found, wanted: numbers [n, numbers]; output [numbers]. An output's scale is how far its wanted numbers lie from their
    means over samples, place by place; one that never changes is compared with its own size, and one that is 0 with 1.
    """
    found, wanted = found.double(), wanted.double()
    spread = _by_output((wanted - wanted.mean(0)).square().sum(0), output)
    energy = _by_output(wanted.square().sum(0), output)
    scale = torch.where(spread > 1e-12 * energy, spread, torch.where(energy > 0, energy, float(len(wanted))))
    share = (found - wanted).square() / scale[output]
    return len(wanted) * share.sum(1) / len(output.unique())


def correlation_of(found: Tensor, wanted: Tensor, output: Tensor) -> float | None:
    """Pearson's correlation between found and wanted numbers, the mean over outputs whose wanted numbers vary.

    An output that found no variation in counts as 0. None where no wanted number varies.
    """
    a, b = (x.double() - x.double().mean(0) for x in (found, wanted))
    size = [_by_output(x.square().sum(0), output) for x in (a, b)]
    levels = [_by_output(x.double().square().sum(0), output) for x in (found, wanted)]
    varies = [own > 1e-12 * level for own, level in zip(size, levels, strict=True)]
    if not varies[1].any():
        return None
    values = _by_output((a * b).sum(0), output) / (size[0] * size[1]).sqrt().clamp_min(1e-300)
    return float(torch.where(varies[0], values, 0.0)[varies[1]].mean().clamp(-1, 1))


def _by_output(numbers: Tensor, output: Tensor) -> Tensor:
    return torch.zeros(int(output.max()) + 1, dtype=torch.float64).index_add_(0, output, numbers)


def root(mean_square: float) -> float:
    """The root of a mean square that rounding may have left a little below zero."""
    return math.sqrt(max(mean_square, 0.0))
