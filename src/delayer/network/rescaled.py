"""RWKV's networks, which change their own weights at their first answer, made to keep them."""

import warnings
from typing import Any

from torch import nn

from delayer.errors import DelayerWarning


def settle_(model: nn.Module) -> nn.Module:
    """Let a network keep its weights, where it would halve those of every n-th block on at its first answer (`rescale_every`).

    RWKV of transformers does that, and halves the stream behind these blocks, so that half precision does not overflow. Which
    blocks it halves depends on their numbers, and weights saved afterwards would be halved again. The function is the same
    without, but for rounding and for the ε of the norms. A DelayerWarning says it.
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        if not hasattr(module, "_rescale_layers") or not getattr(config, "rescale_every", 0):
            continue
        network: Any = module
        if network.layers_are_rescaled:
            training, network.training = network.training, True
            network._rescale_layers()  # back to what they were
            network.training = training
        warnings.warn(
            f"{type(model).__name__} halves its weights every {config.rescale_every} blocks for half precision; that is left "
            "out (rescale_every = 0), so that what is cut and saved are its own weights. Set it again to serve it in float16.",
            DelayerWarning,
            stacklevel=3,
        )
        config.rescale_every = 0
        network.layers_are_rescaled = not network.training
    return model
