"""Facts that a network carries with it as plain attributes, such as where its weights came from."""

from typing import Any

from torch import nn


def note_(module: nn.Module, **facts: Any) -> None:
    """Set attributes that are neither weights nor modules."""
    for name, value in facts.items():
        setattr(module, name, value)
