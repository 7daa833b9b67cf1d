"""Fingerprints that tie a plan to the network that it was made for."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from delayer.errors import ModelError, NotFiniteError
from delayer.network.mapped import MappedWeight, bytes_of
from delayer.network.notes import note_

PART = 1 << 22
"""Numbers that are widened at a time."""


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


def each_tensor_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights and buffers with their names, sorted; of those that lie in files only the one under way is in memory."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in sorted(tensors_of(model).items()):
        yield name, tensor
        if isinstance(weight := weights.get(name), MappedWeight):
            weight.let_go()


def model_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of all weights and buffers, first 16 hexadecimal digits.

    Half-precision weights that lie in files count as the float32 that they are opened in elsewhere: it is the same network.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    lie, known = _lie(model, weights), getattr(model, "delayer_hashed", None)
    if known is not None and lie is not None and known[0] == lie:
        return known[1]
    digest = hashlib.sha256()
    for name, tensor in each_tensor_of(model):
        widened = isinstance(weights.get(name), MappedWeight) and tensor.is_floating_point() and tensor.itemsize < 4
        digest.update(f"{name} {tuple(tensor.shape)} {torch.float32 if widened else tensor.dtype}".encode())
        for part in tensor.flatten().split(PART) if widened else (tensor,):
            digest.update(bytes_of(part.float() if widened else part))
    found = digest.hexdigest()[:16]
    if lie is not None:
        note_(model, delayer_hashed=(lie, found))
    return found


def _lie(model: nn.Module, weights: dict[str, nn.Parameter]) -> tuple | None:
    """Where all of a network's state lies unchanged in files, which tells it from any other; None where some does not."""
    found = []
    for name in sorted(tensors_of(model)):
        weight = weights.get(name)
        if not isinstance(weight, MappedWeight) or not weight.is_mapped or weight.is_changed:
            return None
        found.append((name, tuple(weight.shape), weight.dtype, weight.lies.identity, weight.offset))
    return tuple(found)


def check_finite(model: nn.Module) -> None:
    """Raises NotFiniteError naming the first weight with NaN or infinity."""
    for name, tensor in each_tensor_of(model):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise NotFiniteError(
                f"Weight {name} holds {bad} values that are NaN or infinite. Load intact weights; nothing was cut."
            )
