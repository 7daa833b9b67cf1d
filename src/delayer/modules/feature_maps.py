"""Maps of the feature axis that stand where blocks stood: y = W x + b, with W full, diagonal, or identity plus low rank."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureMap(nn.Module):
    """y = W x + b for each token or pixel; a new one is the identity.

    width: features d. axis: where they lie, -1 for tokens, 1 for images. A kind says what `on_last` does to features [..., d],
    and its `matrix`.
    """

    def __init__(self, width: int, axis: int = -1):
        super().__init__()
        self.width, self.axis = width, axis

    @property
    def matrix(self) -> Tensor:
        """W as a full matrix [d, d]."""
        raise NotImplementedError

    def on_last(self, x: Tensor) -> Tensor:
        """The map of features [..., d] that lie last."""
        raise NotImplementedError

    def moved(self, x: Tensor) -> bool:
        """Whether features lie elsewhere than last."""
        return self.axis not in (-1, x.ndim - 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.on_last(x.movedim(self.axis, -1)).movedim(-1, self.axis) if self.moved(x) else self.on_last(x)

    def extra_repr(self) -> str:
        return f"width={self.width}, axis={self.axis}"


class DenseMap(FeatureMap):
    """W [d, d], with a bias [d] or without; on images a convolution of one pixel."""

    def __init__(self, width: int, axis: int = -1, *, bias: bool = True):
        super().__init__(width, axis)
        self.weight = nn.Parameter(torch.eye(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    @property
    def matrix(self) -> Tensor:
        return self.weight

    def on_last(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.moved(x):
            return self.on_last(x)
        kernel = self.weight.reshape(*self.weight.shape, *[1] * (x.ndim - 2))
        return (F.conv2d if x.ndim == 4 else F.conv1d)(x, kernel, self.bias)


class DiagonalMap(FeatureMap):
    """One factor [d] and, where there is a bias, one shift [d] a feature."""

    def __init__(self, width: int, axis: int = -1, *, bias: bool = True):
        super().__init__(width, axis)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    @property
    def matrix(self) -> Tensor:
        return torch.diag(self.weight)

    def on_last(self, x: Tensor) -> Tensor:
        return x * self.weight if self.bias is None else x * self.weight + self.bias


class LowRankMap(FeatureMap):
    """W = I + U V with U [d, r] and V [r, d], and a bias [d]."""

    def __init__(self, width: int, rank: int, axis: int = -1):
        super().__init__(width, axis)
        self.u = nn.Parameter(torch.zeros(width, rank))
        self.v = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))

    @property
    def matrix(self) -> Tensor:
        return torch.eye(self.width, dtype=self.u.dtype, device=self.u.device) + self.u @ self.v

    def on_last(self, x: Tensor) -> Tensor:
        return x + F.linear(F.linear(x, self.v), self.u, self.bias)

    def extra_repr(self) -> str:
        return f"rank={self.u.shape[1]}, {super().extra_repr()}"
