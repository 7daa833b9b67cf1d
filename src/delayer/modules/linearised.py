"""The module that stands where an activation became linear."""

import torch
from torch import Tensor, nn


class Linearised(nn.Module):
    """scale · z + shift for each feature: scale 1 and shift 0 pass, scale 0 is a constant.

    scale, shift: [features]. axis: where the features are.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, num_features: int, axis: int = 1):
        super().__init__()
        self.axis = axis
        self.register_buffer("scale", torch.ones(num_features))
        self.register_buffer("shift", torch.zeros(num_features))

    def forward(self, z: Tensor) -> Tensor:
        """z with each channel scaled and shifted; its shape stays."""
        shape = [1] * z.ndim
        shape[self.axis] = -1
        return z * self.scale.view(shape) + self.shift.view(shape)

    def extra_repr(self) -> str:
        """Number of channels and their axis, for `print(model)`."""
        return f"{len(self.scale)}, axis={self.axis}"
