"""A linear layer or convolution as plain float64 tensors; a matrix is a convolution over no dimensions at all."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from delayer.merging.verdict import Refusal

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Operator:
    """y = weight * x + bias, with zeros around the image.

    weight: [out, in / groups, *kernel]. bias: [out], None where there is none at all.
    stride, padding, dilation: one number a dimension of the image.
    ones: [out, 1, *kernel], the kernel that a channel of ones meets, padded with zeros as the image is.
    strips: pairs (first, second); `second` of the values of `first` outside its image is taken away from y.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Ints = ()
    padding: Ints = ()
    dilation: Ints = ()
    groups: int = 1
    ones: Tensor | None = None
    strips: tuple[tuple["Operator", "Operator"], ...] = ()

    @property
    def rank(self) -> int:
        """Over how many dimensions of an image it goes; 0 for a matrix."""
        return len(self.stride)

    @property
    def kernel(self) -> Ints:
        """Size of the kernel in each dimension."""
        return tuple(self.weight.shape[2:])

    @property
    def num_out(self) -> int:
        """Channels that it gives."""
        return self.weight.shape[0]

    @property
    def num_in(self) -> int:
        """Channels that it takes."""
        return self.weight.shape[1] * self.groups

    @property
    def reach(self) -> Ints:
        """Distance from a kernel's first tap to its last, in each dimension."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True))

    @property
    def without_bias(self) -> "Operator":
        """The same without what it adds."""
        return replace(self, bias=None, ones=None)


def diagonal(scale: Tensor, shift: Tensor | None, rank: int) -> Operator:
    """scale · x + shift, channel by channel."""
    num = len(scale)
    if rank == 0:
        return Operator(torch.diag(scale), shift)
    return Operator(scale.view(num, 1, *[1] * rank), shift, (1,) * rank, (0,) * rank, (1,) * rank, num)


def identity(num: int, rank: int, device: torch.device | str = "cpu") -> Operator:
    """The operator that changes nothing: num channels, places of so many dimensions (rank)."""
    return diagonal(torch.ones(num, dtype=torch.float64, device=device), None, rank)


def regroup(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """The same map with fewer groups: [out, in / groups, *kernel] → [out, in / fewer, *kernel].

    fewer: divides groups; what no longer is forbidden becomes zeros.
    """
    if groups == fewer:
        return weight
    num_out, num_in, *kernel = weight.shape
    parts, rows = groups // fewer, num_out // groups
    wide = weight.new_zeros(fewer, parts, rows, parts, num_in, *kernel)
    k = torch.arange(parts)
    wide[:, k, :, k] = weight.reshape(fewer, parts, rows, num_in, *kernel).transpose(0, 1)
    return wide.reshape(num_out, parts * num_in, *kernel)


def check_neighbours(first: Operator, second: Operator) -> None:
    """Raises Refusal when one layer does not hand over what the other takes."""
    if first.rank != second.rank:
        raise Refusal(f"layers over {first.rank} and over {second.rank} dimensions of an image do not become one")
    if first.num_out != second.num_in:
        raise Refusal(f"{first.num_out} channels are handed to a layer that takes {second.num_in}")
