"""Less memory in training: what lies inside blocks is computed again on the way back (Chen et al. 2016, arXiv 1604.06174)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from delayer.errors import ModelError

SWITCHES = (
    ("activation_checkpointing_enable", "activation_checkpointing_disable"),  # transformers
    ("gradient_checkpointing_enable", "gradient_checkpointing_disable"),  # earlier ones
)


@contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Inside, a network of transformers or timm keeps what its blocks answer, and nothing of what lies in them.

    Raises ModelError for a network that offers no such switch.
    """
    network: Any = model
    found = next((names for names in SWITCHES if hasattr(network, names[0])), None)
    if found is not None:
        getattr(network, found[0])()
        leave = getattr(network, found[1])
    elif hasattr(network, "set_grad_checkpointing"):
        network.set_grad_checkpointing(True)

        def leave() -> None:
            network.set_grad_checkpointing(False)
    else:
        raise ModelError(
            f"{type(model).__name__} has no switch for computing its blocks again instead of keeping what lies in them. Leave "
            "--save-memory out."
        )
    try:
        yield
    finally:
        leave()
