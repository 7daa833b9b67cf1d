"""Fingerprints that tie a plan to the network that it was made for."""

import hashlib

import torch
from torch import nn

from delayer.errors import NotFiniteError


def model_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all weights and buffers, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_finite(model: nn.Module) -> None:
    """Raises NotFiniteError naming the first weight with NaN or infinity."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise NotFiniteError(
                f"Weight {name} holds {bad} values that are NaN or infinite. Load intact weights; nothing was cut."
            )
