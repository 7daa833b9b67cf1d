"""Fingerprints that tie a plan to the network that it was made for."""

import hashlib

import torch
from torch import Tensor, nn

from delayer.errors import ModelError, NotFiniteError


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers by name. Raises ModelError for a network with other state, such as one that is quantised."""
    state = model.state_dict()
    if other := {name: value for name, value in state.items() if not isinstance(value, Tensor) or value.is_quantized}:
        name, value = next(iter(other.items()))
        what = "a quantised tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ModelError(
            f"{type(model).__name__} keeps {what} in its state ({name}), and {len(other)} such in all; delayer reads, hashes and "
            "saves plain tensors only. Cut the network before it is quantised, and without such state."
        )
    return state


def model_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all weights and buffers, first 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors_of(model).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_finite(model: nn.Module) -> None:
    """Raises NotFiniteError naming the first weight with NaN or infinity."""
    for name, tensor in tensors_of(model).items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise NotFiniteError(
                f"Weight {name} holds {bad} values that are NaN or infinite. Load intact weights; nothing was cut."
            )
