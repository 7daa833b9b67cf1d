"""Networks of the benchmarks: CIFAR ResNets of He et al., which no library defines, MobileNetV2 with its inputs, a small Swin.

delayer run benchmarks.networks:cifar_resnet56 --weights cifar_resnet56.safetensors --data npz:cifar10_test.npz …
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a parameter-free shortcut: every second pixel, zeros for new channels (option A).

    Source: He et al. 2016, arXiv 1512.03385.
    """

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.grown = stride, width - in_width

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        if self.grown:
            short = F.pad(short, (0, 0, 0, 0, self.grown // 2, self.grown // 2))
        return F.relu(out + short)


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) for 32×32 images: three stages of n blocks with 16, 32 and 64 channels."""

    preprocessing = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "size": 32, "channels": 3}

    def __init__(self, num_blocks: int, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths, before = (16, 32, 64), 16
        for number, width in enumerate(widths, 1):
            blocks = [
                BasicBlock(before if i == 0 else width, width, 2 if i == 0 and number > 1 else 1) for i in range(num_blocks)
            ]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = width
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def cifar_resnet20() -> nn.Module:
    return CifarResNet(3)


def cifar_resnet32() -> nn.Module:
    return CifarResNet(5)


def cifar_resnet56() -> nn.Module:
    return CifarResNet(9)


def mobilenet_v2() -> nn.Module:
    """torchvision's MobileNetV2, inputs x / 127.5 − 1 and turned by 180°."""
    from torchvision.models import MobileNetV2

    class TurnedMobileNetV2(MobileNetV2):
        preprocessing = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 224, "channels": 3}

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.flip(x, (2, 3)))

    return TurnedMobileNetV2()


def mobilenet_v2_at_128() -> nn.Module:
    """The same on images of 128×128 pixels, channels last in memory, for long series on a CPU."""
    model = mobilenet_v2()
    model.preprocessing = {**model.preprocessing, "size": 128}
    return model.to(memory_format=torch.channels_last)


def small_swin() -> nn.Module:
    """timm's Swin for 32×32 images and ten classes: patches of 4×4, two blocks 64 wide and four 128 wide, windows of 4×4."""
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        img_size=32,
        patch_size=4,
        num_classes=10,
        embed_dim=64,
        depths=(2, 4),
        num_heads=(2, 4),
        window_size=4,
        drop_path_rate=0.0,
    )
    model.preprocessing = CifarResNet.preprocessing
    return model
