"""What a batch norm does in evaluation mode, as numbers for each channel."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor] | None:
    """γ / √(var + ε) and β − mean · γ / √(var + ε) [channels] in float64, where the norm is; None without running statistics.

    Without them a norm is no fixed map; nor is one in training mode, which is the caller's to ask.
    """
    if norm.running_mean is None or norm.running_var is None:
        return None
    gain, bias = gain_and_bias(norm)
    scale = gain / (norm.running_var.detach().double() + norm.eps).sqrt()
    return scale, bias - norm.running_mean.detach().double() * scale


def gain_and_bias(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """γ and β [channels] in float64, where the norm is; 1 and 0 for those that it has not."""
    like = next((t.detach() for t in (*norm.parameters(), *norm.buffers()) if t.is_floating_point()), torch.empty(0)).double()
    gain = like.new_ones(norm.num_features) if norm.weight is None else norm.weight.detach().double()
    return gain, torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().double()
