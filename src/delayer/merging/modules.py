"""Operators as modules: a plain layer, or one with a repaired border."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.jit._trace import is_tracing
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from delayer.merging.operator import Operator

_KINDS: dict[int, Callable[..., _ConvNd]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CALLS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

L = TypeVar("L", nn.Linear, _ConvNd)


def module_of(operator: Operator) -> nn.Module:
    """The module, in float64, with every repair that the operator carries."""
    if operator.rank == 0:  # features have no border
        bias, device = operator.bias is not None, operator.weight.device
        return _filled(nn.Linear(operator.num_in, operator.num_out, bias, device, torch.float64), operator)
    convolution = _convolution(operator)
    layer = convolution if operator.ones is None else ConstantChannel(convolution, operator.ones)
    for first, second in operator.strips:
        layer = BorderStrip(layer, _convolution(first), _convolution(second))
    return layer


def _convolution(operator: Operator) -> _ConvNd:
    layer = _KINDS[operator.rank](
        operator.num_in,
        operator.num_out,
        operator.kernel,
        operator.stride,
        operator.padding,
        operator.dilation,
        operator.groups,
        bias=operator.bias is not None,
        dtype=torch.float64,
        device=operator.weight.device,
    )
    return _filled(layer, operator)


def _filled(layer: L, operator: Operator) -> L:
    with torch.no_grad():
        layer.weight.copy_(operator.weight)
        if layer.bias is not None and operator.bias is not None:
            layer.bias.copy_(operator.bias)
    return layer


class ConstantChannel(nn.Module):
    """A convolution with one more input channel that is 1 on the image and 0 around it.

    The channel is the same for every sample, so it is convolved once a batch.
    """

    def __init__(self, layer: _ConvNd, ones: Tensor):
        super().__init__()
        self.layer = layer
        self.ones = nn.Parameter(ones.clone())

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, *place] → [batch, out, *place]."""
        layer = self.layer
        image = torch.ones_like(x[:1, :1])
        return layer(x) + _CALLS[x.ndim - 2](image, self.ones, None, layer.stride, layer.padding, layer.dilation)


class BiasMap(nn.Module):
    """A layer plus a fixed image [out, *size]; for inputs of one size."""

    def __init__(self, layer: nn.Module, map: Tensor):
        super().__init__()
        self.layer = layer
        self.map = nn.Parameter(map.clone())

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, *place] → [batch, out, *place]."""
        y = self.layer(x)
        if not is_tracing() and y.shape[1:] != self.map.shape:
            raise ValueError(
                f"Layers merged with a bias map give images of {list(self.map.shape[1:])}, and these inputs ask for "
                f"{list(y.shape[2:])}. Merge with repair constant_channel, which takes any size."
            )
        return y + self.map


class BorderStrip(nn.Module):
    """A merged convolution less what `second` makes of the values of `first` outside its image: a thin strip a side."""

    def __init__(self, layer: nn.Module, first: _ConvNd, second: _ConvNd):
        super().__init__()
        self.layer, self.first, self.second = layer, first, second

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, *place] → [batch, out, *place]."""
        y = self.layer(x)
        first, second = self.first, self.second
        rank, sizes = x.ndim - 2, x.shape[2:]
        reach1, reach2, pad1, pad2 = _reach(first), _reach(second), _padding(first), _padding(second)
        num1 = [(n + 2 * p - r - 1) // s + 1 for n, p, r, s in zip(sizes, pad1, reach1, first.stride, strict=True)]
        num2 = [(n + 2 * p - r - 1) // s + 1 for n, p, r, s in zip(num1, pad2, reach2, second.stride, strict=True)]
        for side in range(rank):
            p, s = pad2[side], second.stride[side]
            if not p:
                continue
            low = min(-(-p // s), num2[side])  # results before this one read values before the image
            high = max(-(-(num1[side] + p - reach2[side]) // s), 0)  # results from this one on read values behind it
            for begin, end, results in ((-p, 0, (0, low)), (num1[side], num1[side] + p, (high, num2[side]))):
                if results[0] >= results[1]:
                    continue
                # Corners belong to the first dimension that they lie outside of.
                values = [(0, n) if k < side else (-q, n + q) for k, (n, q) in enumerate(zip(num1, pad2, strict=True))]
                values[side] = (begin, end)
                wanted = [(0, n) for n in num2]
                wanted[side] = results
                image = [
                    (a * t - q, (b - 1) * t - q + r + 1)
                    for (a, b), t, q, r in zip(values, first.stride, pad1, reach1, strict=True)
                ]
                canvas = [
                    (a * t - q, (b - 1) * t - q + r + 1)
                    for (a, b), t, q, r in zip(wanted, second.stride, pad2, reach2, strict=True)
                ]
                outside = _bare(first, _window(x, [(0, n) for n in sizes], image), first.bias)
                strip = _bare(second, _window(outside, values, canvas), None)
                y[(..., *(slice(a, b) for a, b in wanted))] -= strip
        return y


def _padding(layer: _ConvNd) -> tuple[int, ...]:
    assert not isinstance(layer.padding, str)  # an operator has it in numbers
    return layer.padding


def _reach(layer: _ConvNd) -> list[int]:
    return [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]


def _window(x: Tensor, have: list[tuple[int, int]], want: list[tuple[int, int]]) -> Tensor:
    """An image that covers the ranges `have`, cut and filled with zeros to cover the ranges `want`."""
    inner = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(have, want, strict=True)]
    if any(low >= high for low, high in inner):
        return x.new_zeros(*x.shape[:2], *(d - c for c, d in want))
    cut = x[(..., *(slice(low - a, high - a) for (low, high), (a, _) in zip(inner, have, strict=True)))]
    return F.pad(cut, [n for (low, high), (c, d) in zip(inner[::-1], want[::-1], strict=True) for n in (low - c, d - high)])


def _bare(layer: _ConvNd, x: Tensor, bias: Tensor | None) -> Tensor:
    """The layer without its padding."""
    return _CALLS[x.ndim - 2](x, layer.weight, bias, layer.stride, 0, layer.dilation, layer.groups)
