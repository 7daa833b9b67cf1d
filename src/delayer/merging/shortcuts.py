"""Shortcuts without parameters: every second pixel, and zeros for new channels (option A of He et al., arXiv 1512.03385)."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from delayer.merging.operator import Operator


class Every(nn.Module):
    """Every n-th pixel: a 1×1 convolution of each channel on its own, with a stride."""

    def __init__(self, stride: tuple[int, ...]):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, *place] → the same with every stride-th place."""
        return x[(slice(None), slice(None), *(slice(None, None, step) for step in self.stride))]

    def operator(self, num: int, device: torch.device | str) -> Operator:
        """What it does to num channels, as a convolution of width 1 with that stride."""
        rank = len(self.stride)
        ones = torch.ones(num, 1, *[1] * rank, dtype=torch.float64, device=device)
        return Operator(ones, None, self.stride, (0,) * rank, (1,) * rank, num)


class MoreChannels(nn.Module):
    """Zeros before and after the channels: a 1×1 convolution with ones on a diagonal."""

    def __init__(self, before: int, after: int, rank: int):
        super().__init__()
        self.before, self.after, self.rank = before, after, rank

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, *place] → [batch, before + channels + after, *place]."""
        return F.pad(x, (*[0] * (2 * self.rank), self.before, self.after))

    def operator(self, num: int, device: torch.device | str) -> Operator:
        """What it does to num channels, as a convolution of width 1."""
        eye = torch.eye(num, dtype=torch.float64, device=device)
        weight = F.pad(eye, (0, 0, self.before, self.after)).view(-1, num, *[1] * self.rank)
        return Operator(weight, None, (1,) * self.rank, (0,) * self.rank, (1,) * self.rank)


def shortcut_of(node: fx.Node) -> nn.Module | None:
    """The module that does what a slice or a padding in a traced forward pass does; None for any other call."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target is operator.getitem and isinstance(node.args[1], tuple):
        images, steps = node.args[1][:2], tuple(_step(cut) for cut in node.args[1][2:])
        if images == (slice(None), slice(None)) and steps and all(steps):
            return Every(steps)
    if node.target is F.pad:
        given: dict[str, Any] = dict(zip(("pad", "mode", "value"), node.args[1:], strict=False)) | dict(node.kwargs)
        pad = tuple(given.get("pad", ()))
        zeros = given.get("mode", "constant") == "constant" and not given.get("value")
        if zeros and len(pad) > 4 and len(pad) % 2 == 0 and all(type(n) is int and n >= 0 for n in pad) and not any(pad[:-2]):
            return MoreChannels(pad[-2], pad[-1], len(pad) // 2 - 1)
    return None


def _step(cut: object) -> int:
    """The n of a slice of every n-th pixel; 0 for any other."""
    if not isinstance(cut, slice) or cut.start not in (None, 0) or cut.stop is not None:
        return 0
    if cut.step is None:
        return 1
    return cut.step if type(cut.step) is int and cut.step > 0 else 0
