"""A small residual network for 8×8 digits, quick enough to go the whole road in a second."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.relu(self.inner(self.norm(x))))


class Digits(nn.Module):
    """[n, 1, 8, 8] → [n, 10] through six residual blocks of width 24; block 2 adds nothing (planted)."""

    preprocessing = {"mean": (0.5,), "std": (0.5,), "size": 8, "channels": 1}

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(64, 24)
        self.blocks = nn.ModuleList(Block(24) for _ in range(6))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = Digits()
    with torch.no_grad():
        for block in model.blocks:
            block.outer.weight.mul_(2)
        model.blocks[2].outer.weight.zero_()
        model.blocks[2].outer.bias.zero_()
    return model


def two_widths() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8), Block(8), Block(8), nn.Linear(8, 12), Block(12), Block(12), nn.Linear(12, 10)
    )
    model.preprocessing = Digits.preprocessing
    return model


def with_nan() -> nn.Module:
    model = network()
    with torch.no_grad():
        model.blocks[1].inner.weight[0, 0] = float("nan")
    return model


def overflowing() -> nn.Module:
    """Finite weights whose activations are not."""
    model = network()
    with torch.no_grad():
        model.blocks[3].outer.weight.fill_(3e38)
    return model


def not_a_module() -> str:
    return "nothing"


class Numbers(nn.Module):
    """[n, 6] → [n, 2] numbers far from zero, through five residual blocks; block 3 adds nothing (planted)."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Linear(6, 12), nn.ModuleList(Block(12) for _ in range(5))
        self.height = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return torch.tensor([100.0, -3.0]) + self.height(x)


def regression() -> nn.Module:
    torch.manual_seed(0)
    model = Numbers()
    with torch.no_grad():
        for block in model.blocks:
            block.outer.weight.mul_(2)
        model.blocks[3].outer.weight.zero_()
        model.blocks[3].outer.bias.zero_()
    return model
