"""Safetensors in and out: strict, without pickle, with a report of what does not fit."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from delayer.errors import WeightsError
from delayer.network.hashing import each_tensor_of, tensors_of
from delayer.network.notes import note_
from delayer.store.pickles import refuse_pickle
from delayer.store.shards import files_of


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of several that an index or a folder names (`files_of`).

    Raises WeightsError for a pickle, a missing or a corrupted file.
    """
    found: dict[str, Tensor] = {}
    for file in files_of(path):
        part = _read(file)
        twice = [name for name in sorted(found.keys() & part.keys()) if not torch.equal(found[name], part[name])]
        if twice:
            raise WeightsError(
                f"{file} holds {twice[0]}, which another file of {path} holds with other values, so nobody can say which is "
                "meant. Fetch the files again."
            )
        found |= part
    return found


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        head = file.read(10)
    # A safetensors file begins with eight bytes of length, which may be anything, and its header's brace.
    if head[8:9] != b"{" and (head[:2] == b"PK" or head[:1] == b"\x80"):
        raise refuse_pickle(path)
    if head[:4] == b"GGUF" and head[8:9] != b"{":
        raise WeightsError(
            f"{path} is a GGUF file, which is a whole network: open it by the name gguf:{path}, without --weights."
        )
    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is truncated, corrupted or no safetensors file ({error}). Fetch it again.") from error


def header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of one safetensors file or several (`files_of`), from headers alone. Raises WeightsError."""
    return {name: found for file in files_of(path) for name, found in _header(file).items()}


def _header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(str(path), "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError):
        _read(path)  # which says what is wrong
        raise


def note_dtype_(model: nn.Module, dtypes: Iterable[str]) -> nn.Module:
    """Note on a network the half precision that all its weights were stored in, so that a copy is stored in it again."""
    floats = {dtype for dtype in dtypes if dtype.startswith(("F", "BF"))}
    note_(model, delayer_dtype={"F16": "float16", "BF16": "bfloat16"}.get(floats.pop(), "") if len(floats) == 1 else "")
    return model


Stored = Literal["keep", "float32", "float16", "bfloat16"]
"""What floating-point weights are saved in: as the original is stored, or as named."""


def round_(model: nn.Module, dtype: str) -> bool:
    """Round all floating-point state to a half precision, in the network's own; False, and nothing done, if some overflows."""
    kind = getattr(torch, dtype)
    if not all(torch.isfinite(t.to(kind)).all() for _, t in each_tensor_of(model) if t.is_floating_point() and t.dtype != kind):
        return False
    with torch.no_grad():
        for _, tensor in each_tensor_of(model):
            if tensor.is_floating_point() and tensor.dtype != kind:
                tensor.copy_(tensor.to(kind))
    return True


def fill_(model: nn.Module, weights: dict[str, Tensor], *, name: str) -> nn.Module:
    """Load weights strictly, in the network's own precision, and get the network.

    Tensors that the network shares between names (tied embeddings) may be given under one of them.
    Raises WeightsError listing what is missing, unexpected or of another shape; ModelError for state that is no tensor.
    """
    state, own = model.state_dict(), tensors_of(model)
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
    shapes = [
        f"{key} is {list(weights[key].shape)} where the network has {list(own[key].shape)}"
        for key in own.keys() & weights.keys()
        if weights[key].shape != own[key].shape
    ]
    check_fit(name, type(model).__name__, len(own), own.keys() - weights.keys(), weights.keys() - own.keys(), shapes)
    for key, value in weights.items():
        state[key] = value.to(own[key].dtype)
    with torch.no_grad():
        model.load_state_dict(state)  # with the versions of its modules, which some look for when they load
    return model


def check_fit(
    name: str, kind: str, num_own: int, missing: Iterable[str], unexpected: Iterable[str], shapes: Iterable[str]
) -> None:
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


def distinct_weights(model: nn.Module, dtype: str = "") -> dict[str, Tensor]:
    """The state of a network for a safetensors file: contiguous, on the CPU, each shared tensor once.

    dtype: the half precision to store floating-point tensors in; "" for their own.
    """
    seen: set[tuple[int, tuple, tuple]] = set()
    found: dict[str, Tensor] = {}
    for key, tensor in tensors_of(model).items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        stored = getattr(torch, dtype) if dtype and tensor.is_floating_point() else tensor.dtype
        found[key] = tensor.detach().to("cpu", stored).contiguous().clone()
    return found
