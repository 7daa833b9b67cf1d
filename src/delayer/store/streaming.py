"""Safetensors files written tensor by tensor, so that no more than one of those that lie in files is in memory."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from delayer.network.hashing import tensors_of
from delayer.network.mapped import MappedWeight, bytes_of
from delayer.store.by_block import DTYPES
from delayer.study import write_atomically

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNED = 8
"""Bytes that a header's length is a multiple of, so that no tensor lies at an odd place."""


def distinct_tensors(
    model: nn.Module, names: Mapping[str, str] | None = None, never: frozenset[str] = frozenset()
) -> dict[str, Tensor]:
    """Weights and buffers of a network as they lie, each shared one once.

    names: what they are called in the file, by their names in the network. never: names to leave out of those that share one.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    found: dict[tuple, tuple[str, Tensor]] = {}
    for key, tensor in tensors_of(model).items():
        name = key if names is None else names[key]
        place = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (name,)
        if place not in found or found[place][0] in never:
            found[place] = name, weights.get(key, tensor)
    return dict(found.values())


def write_tensors(tensors: Mapping[str, Tensor], path: Path, dtype: str = "") -> None:
    """One safetensors file. dtype: what floating-point tensors are stored in, "" for their own."""
    stored = {name: _stored(tensor, dtype) for name, tensor in tensors.items()}
    # Wide types first, so that each tensor begins at a multiple of its type's size.
    order = sorted(tensors, key=lambda name: (-stored[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].numel() * stored[name].itemsize
        header[name] = {"dtype": NAMES[stored[name]], "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(bytes_of(tensors[name].detach().to(stored[name])))
            if isinstance(weight := tensors[name], MappedWeight):
                weight.let_go()


def write_shards(tensors: Mapping[str, Tensor], folder: Path, largest: int, dtype: str = "") -> None:
    """model.safetensors, or as many files of at most so many bytes as that takes (0: one file) and their index."""
    sizes = {name: tensor.numel() * _stored(tensor, dtype).itemsize for name, tensor in tensors.items()}
    shards: list[list[str]] = [[]]
    room = largest
    for name, size in sizes.items():
        if largest and shards[-1] and size > room:
            shards.append([])
            room = largest
        shards[-1].append(name)
        room -= size
    if len(shards) == 1:
        write_tensors(tensors, folder / "model.safetensors", dtype)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        write_tensors({name: tensors[name] for name in names}, folder / file, dtype)
        places |= dict.fromkeys(names, file)
    total = {"total_parameters": sum(tensor.numel() for tensor in tensors.values()), "total_size": sum(sizes.values())}
    index = {"metadata": total, "weight_map": dict(sorted(places.items()))}
    write_atomically(folder / "model.safetensors.index.json", json.dumps(index, indent=2))


def _stored(tensor: Tensor, dtype: str) -> torch.dtype:
    return getattr(torch, dtype) if dtype and tensor.is_floating_point() else tensor.dtype
