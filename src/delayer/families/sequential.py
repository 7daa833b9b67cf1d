"""Plain `nn.Sequential`: every child is a block. A block without parameters counts as none in a budget."""

import torch
from torch import Tensor, nn

from delayer.families import families
from delayer.network.blocks import Family


def _example(model: nn.Module) -> Tensor | None:
    """One batch for a network that begins with a linear layer; any other needs one from the user."""
    first = next((m for m in model.modules() if not list(m.children()) and list(m.parameters())), None)
    return torch.zeros(2, first.in_features) if isinstance(first, nn.Linear) else None


families.register("Sequential")(
    Family(
        name="Sequential",
        classes=(r"torch\.nn\.modules\.container\.Sequential",),
        blocks=r"\w+",
        axis=None,
        rows="mean",
        example=_example,
    )
)
