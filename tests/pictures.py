"""A small residual network of pictures with batch norms, whose blocks end in a ReLU; importable by a fresh process."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 6


class PictureBlock(nn.Module):
    def __init__(self, width: int = WIDTH, norms: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=not norms)
        self.bn1 = nn.BatchNorm2d(width) if norms else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=not norms)
        self.bn2 = nn.BatchNorm2d(width) if norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += x  # in place, as torchvision's ResNet adds
        return F.relu(out, inplace=True)


class Grown(PictureBlock):
    """Half the pixels; cannot be removed."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x[:, :, ::2, ::2] + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Pictures(nn.Module):
    preprocessing = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 9, "channels": 3}

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, 1, 1)
        self.blocks = nn.Sequential(*[PictureBlock() for _ in range(4)], Grown(), *[PictureBlock() for _ in range(2)])
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def network() -> nn.Module:
    """Lively weights and statistics, in float64, evaluating."""
    torch.manual_seed(0)
    model = Pictures().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
    return model.eval()


def single() -> nn.Module:
    return network().float()


def batches(num: int = 6, size: int = 10, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 9, 9, generator=generator, dtype=torch.float64) for _ in range(num)]
