"""The network around a cell: a stem, three stages of cells with residual reductions between them, and a head.

Source: Dong & Yang 2020, arXiv 2001.00326, section 2.1; own implementation.
"""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn


def relu_conv_norm(in_width: int, width: int, kernel: int, stride: int = 1) -> nn.Module:
    """ReLU, a convolution without bias, batch norm."""
    conv = nn.Conv2d(in_width, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(width))


MAKERS = {
    "skip_connect": lambda width: nn.Identity(),
    "nor_conv_1x1": lambda width: relu_conv_norm(width, width, 1),
    "nor_conv_3x3": lambda width: relu_conv_norm(width, width, 3),
    "avg_pool_3x3": lambda width: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}
"""A module for each operation but `none`, which is left out."""


class Cell(nn.Module):
    """[n, width, h, w] → the same shape, through the operations on edges (source, to); nodes sum what reaches them."""

    def __init__(self, operations: Mapping[tuple[int, int], str], width: int):
        super().__init__()
        self.edges = [edge for edge, operation in operations.items() if operation != "none"]
        self.num_nodes = max(to for _, to in operations)
        self.operations = nn.ModuleDict({f"{s}-{to}": MAKERS[operations[s, to]](width) for s, to in self.edges})

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width], the same shape."""
        nodes = [x]
        for node in range(1, self.num_nodes + 1):
            terms = [self.operations[f"{s}-{to}"](nodes[s]) for s, to in self.edges if to == node]
            nodes.append(reduce(torch.add, terms) if terms else torch.zeros_like(x))
        return nodes[-1]


class Reduction(nn.Module):
    """[n, width, h, w] → [n, 2·width, h/2, w/2]: two convolutions, beside an average pool and a 1×1 convolution."""

    def __init__(self, width: int):
        super().__init__()
        self.first = relu_conv_norm(width, 2 * width, 3, stride=2)
        self.second = relu_conv_norm(2 * width, 2 * width, 3)
        # Images of odd size keep their last row, as the strided convolution keeps it.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(width, 2 * width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, height, width] → [batch, out, height / 2, width / 2]."""
        return self.shortcut(x) + self.second(self.first(x))


class CellNetwork(nn.Module):
    """[n, in_channels, h, w] → logits [n, num_classes]; `body` holds 3·num_cells cells and two reductions in order."""

    def __init__(
        self,
        operations: Mapping[tuple[int, int], str],
        *,
        width: int = 16,
        num_cells: int = 5,
        in_channels: int = 3,
        num_classes: int = 10,
    ):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        body: list[nn.Module] = []
        for stage in range(3):
            body += [Reduction(width * 2 ** (stage - 1))] if stage else []
            body += [Cell(operations, width * 2**stage) for _ in range(num_cells)]
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(
            nn.BatchNorm2d(4 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] → logits [batch, classes]."""
        return self.head(self.body(self.stem(x)))
