"""The architectures that the published methods were shown on, from the libraries that define them, with random weights."""

import torch
from torch import nn

PREPROCESSING = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "channels": 3}


def _of(make, **preprocessing) -> nn.Module:
    torch.manual_seed(0)
    model = make()
    model.preprocessing = PREPROCESSING | preprocessing
    return model


def resnet18_imagenet() -> nn.Module:
    from torchvision.models import resnet18

    return _of(lambda: resnet18(num_classes=4), size=64)


def resnet18_cifar() -> nn.Module:
    """The stem that small images take: one 3×3 convolution, no pooling."""
    from torchvision.models import resnet18

    def make() -> nn.Module:
        model = resnet18(num_classes=4)
        model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        return model

    return _of(make)


def vgg16_bn() -> nn.Module:
    """With the one linear layer behind it that small images take."""
    from torchvision.models.vgg import VGG, cfgs, make_layers

    def make() -> nn.Module:
        with torch.device("meta"):  # its own classifier has a hundred million weights
            model = VGG(nn.Identity(), init_weights=False)
        model.features = make_layers(cfgs["D"], batch_norm=True)
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 4)
        return model

    return _of(make)


def mobilenet_v2() -> nn.Module:
    from torchvision.models import mobilenet_v2

    return _of(lambda: mobilenet_v2(num_classes=4), size=64)


def swin_tiny() -> nn.Module:
    import timm

    return _of(lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, img_size=112), size=112)
