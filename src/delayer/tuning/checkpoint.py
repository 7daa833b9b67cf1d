"""Where a training run stands, in one file: tensors as safetensors, the rest as JSON in its header."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from delayer.errors import DelayerError, StudyError
from delayer.store.weights import read_weights
from delayer.study import record_in, shortened, write_atomically

R = TypeVar("R", bound=BaseModel)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], record: BaseModel) -> None:
    """Write both as one file, so that a kill leaves the old state or the new one and never half of each."""
    # safetensors refuses views and shared storage, which parameters of some networks are.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = record.model_dump_json()
    write_atomically(path, save(plain, {"record": text, "sha256": fingerprint(plain, text)}))


def read_checkpoint(path: Path, kind: type[R]) -> tuple[dict[str, Tensor], R] | None:
    """What `save_checkpoint` wrote, None if it was never called.

    Raises StudyError for any other file, also for this one with a single bit changed.
    """
    if not os.path.lexists(path):
        return None
    try:
        tensors = read_weights(path)
        with safe_open(str(path), "pt") as file:
            stated = file.metadata() or {}
        if stated.get("sha256") != fingerprint(tensors, stated.get("record", "")):
            raise StudyError("its content is not what was written")
        return tensors, record_in(stated["record"], str(path), kind)
    except (DelayerError, KeyError) as error:
        raise StudyError(
            f"{path} is no checkpoint that this version can go on from ({shortened(str(error), 160).rstrip('.')}). Delete it to "
            "begin again, or choose another file."
        ) from error


def fingerprint(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256 of tensors, of their names, types and shapes, and of a text."""
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def put_back_(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Copy saved tensors into those of the same names. Raises StudyError where one is missing or of another shape."""
    for name, tensor in live.items():
        if name not in saved or saved[name].shape != tensor.shape:
            found = list(saved[name].shape) if name in saved else "nothing"
            raise StudyError(
                f"{path} holds {found} for {name}, which is {list(tensor.shape)} here: it is of another network. "
                "Delete it to begin again, or choose another file."
            )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])
