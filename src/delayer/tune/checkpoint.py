"""Where a training run stands, in one file: tensors as safetensors, the rest as JSON in its header."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from delayer.errors import StudyError, WeightsError
from delayer.store.weights import read_weights
from delayer.study import write_atomically

R = TypeVar("R", bound=BaseModel)


def save_checkpoint(path: Path, tensors: dict[str, Tensor], record: BaseModel) -> None:
    """Write both as one file, so that a kill leaves the old state or the new one and never half of each."""
    # safetensors refuses views and shared storage, which parameters of some networks are.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, save(plain, {"record": record.model_dump_json()}))


def read_checkpoint(path: Path, kind: type[R]) -> tuple[dict[str, Tensor], R] | None:
    """What `save_checkpoint` wrote, None if it was never called. Raises StudyError for any other file."""
    if not path.exists():
        return None
    try:
        tensors = read_weights(path)
        with safe_open(str(path), "pt") as file:
            return tensors, kind.model_validate_json((file.metadata() or {})["record"])
    except (WeightsError, ValidationError, KeyError) as error:
        raise StudyError(
            f"{path} is no checkpoint that this version can go on from. Delete it to begin again, "
            "or choose another file."
        ) from error
