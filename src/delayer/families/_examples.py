"""Small inputs that a family makes up for itself."""

import torch
from torch import Tensor, nn

from delayer.network.notes import config_of, pretrained_of


def timm_image(model: nn.Module) -> Tensor:
    """One batch [2, channels, height, width] of the size that a timm model states."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    channels = next(p for p in model.parameters() if p.ndim == 4).shape[1]
    stated = pretrained_of(model).get("input_size", (3, 224, 224))
    return torch.zeros(2, channels, *(size or stated[1:]))


def image_224(model: nn.Module) -> Tensor:
    """One batch [2, channels, 224, 224]."""
    return torch.zeros(2, next(p for p in model.parameters() if p.ndim == 4).shape[1], 224, 224)


def huggingface_image(model: nn.Module) -> dict[str, Tensor]:
    """Pixel values [2, channels, size, size] from a Hugging Face configuration."""
    config = config_of(model)
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return {"pixel_values": torch.zeros(2, getattr(config, "num_channels", 3), height, width)}


def token_ids(model: nn.Module) -> dict[str, Tensor]:
    """Token numbers [2, 8] that any vocabulary has, with a full mask."""
    ids = (torch.arange(16).reshape(2, 8) + 2) % config_of(model).vocab_size
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
