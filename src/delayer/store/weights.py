"""Safetensors in and out: strict, without pickle, with a report of what does not fit."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from delayer.errors import WeightsError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsError for a pickle, a missing or a corrupted file."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}. Give a .safetensors file.")
    with path.open("rb") as file:
        head = file.read(10)
    # A safetensors file begins with eight bytes of length, which may be anything, and its header's brace.
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise WeightsError(
            f"{path} is a pickle (a torch.save file), which can run code when opened; delayer reads safetensors only. "
            "Convert it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')."
        )
    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is truncated, corrupted or no safetensors file ({error}). Fetch it again."
        ) from error


def fill_(model: nn.Module, weights: dict[str, Tensor], *, name: str) -> nn.Module:
    """Load weights strictly, in the network's own precision, and get the network.

    Tensors that the network shares between names (tied embeddings) may be given under one of them.
    Raises WeightsError listing what is missing, unexpected or of another shape.
    """
    own = model.state_dict()
    twins: dict[tuple[int, tuple], list[str]] = {}
    for key, tensor in own.items():
        twins.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(key)
    weights = dict(weights)
    for group in twins.values():
        given = next((key for key in group if key in weights), None)
        if given is None or not own[given].numel():
            continue
        for key in group:
            one, other = weights[given], weights.setdefault(key, weights[given])
            if one.shape == other.shape and not torch.allclose(one, other.to(one.dtype), 0, 0, equal_nan=True):
                raise WeightsError(
                    f"{name} holds different values for {given} and {key}, which {type(model).__name__} shares. "
                    "Give the weights of a network that shares them, or a network that does not."
                )
    counters = [key for key in own if key.endswith("num_batches_tracked")]
    for key in counters:
        weights.setdefault(key, own[key])
    shapes = [f"{key} is {list(weights[key].shape)} where the network has {list(own[key].shape)}"
              for key in own.keys() & weights.keys() if weights[key].shape != own[key].shape]
    check_fit(name, type(model).__name__, len(own), own.keys() - weights.keys(), weights.keys() - own.keys(), shapes)
    with torch.no_grad():
        model.load_state_dict({key: value.to(own[key].dtype) for key, value in weights.items()})
    return model


def check_fit(name: str, kind: str, num_own: int, missing: Iterable[str], unexpected: Iterable[str],
              shapes: Iterable[str]) -> None:
    """Raises WeightsError that lists what is missing, unknown or of another shape; nothing when all fits."""
    found = ((missing, "missing"), (unexpected, "unknown to the network"), (shapes, "of another shape"))
    problems = [f"{len(items)} {what} ({_some(items)})" for given, what in found if (items := sorted(given))]
    if problems:
        raise WeightsError(
            f"{name} does not fit {kind}: of {num_own} tensors {'; '.join(problems)}. "
            "Give the weights of this very network, or the network of these weights."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def distinct_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network for a safetensors file: contiguous, on the CPU, each shared tensor once."""
    seen: set[tuple[int, tuple, tuple]] = set()
    found: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        found[key] = tensor.detach().cpu().contiguous().clone()
    return found
