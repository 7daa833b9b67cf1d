"""The inputs of an activation as a normal distribution for each channel."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.network.norms import gain_and_bias


@dataclass(frozen=True)
class Normal:
    """mean, deviation: [channels], in float64; from a norm's parameters (`from_norm`) or seen (`Switches.normal`)."""

    mean: Tensor
    deviation: Tensor

    def p_off(self) -> Tensor:
        """Probability of an input at or below zero [channels]: Φ(−mean/deviation); without spread 1 or 0."""
        spread = self.deviation > 0
        normal = torch.special.ndtr(-self.mean / torch.where(spread, self.deviation, 1.0))
        return torch.where(spread, normal, (self.mean <= 0).double())

    def mostly_on(self) -> Tensor:
        """Channels whose input is above zero more often than not."""
        return self.mean > 0


def from_norm(norm: _BatchNorm) -> Normal:
    """What a batch norm hands on: mean β and deviation |γ|; 0 and 1 for one without parameters."""
    gain, bias = gain_and_bias(norm)
    return Normal(bias.cpu(), gain.abs().cpu())
