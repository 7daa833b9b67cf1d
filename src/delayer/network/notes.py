"""Facts that a network carries with it as plain attributes, such as where its weights came from."""

from typing import Any

from torch import nn


def note_(module: nn.Module, **facts: Any) -> None:
    """Set attributes that are neither weights nor modules."""
    for name, value in facts.items():
        setattr(module, name, value)


def config_of(module: nn.Module) -> Any:
    """The configuration that a network of Hugging Face's states; None where there is none."""
    return getattr(module, "config", None)


def pretrained_of(module: nn.Module) -> dict[str, Any]:
    """What a network of timm's states of its weights; empty for any other."""
    return getattr(module, "pretrained_cfg", None) or {}
