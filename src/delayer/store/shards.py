"""Weights in several files: which safetensors files a path stands for, be it one of them, their index or their folder."""

import re
from pathlib import Path

from torch import nn

from delayer.errors import ModelError, WeightsError
from delayer.network.notes import note_
from delayer.store.integrity import read_json

INDEX = ".safetensors.index.json"
_NAME = re.compile(r"[\w .=+-]+\.safetensors")


def files_of(path: str | Path) -> list[Path]:
    """The safetensors files that a path stands for, in their order.

    A folder stands for its model.safetensors, else its one index, else its one safetensors file.
    Raises WeightsError where there is none, or where an index names what is not beside it.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}. Give a .safetensors file, its index, or the folder of both.")
    if not path.name.endswith(INDEX):
        return [path]
    parts = [path.parent / name for name in part_names(path)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise WeightsError(
            f"{path} names {len(parts)} files, of which {len(missing)} are not there ({', '.join(missing[:3])}). Fetch them too."
        )
    return parts


def part_names(index: Path) -> list[str]:
    """The files beside it that an index (`model.safetensors.index.json`) names. Raises WeightsError."""
    try:
        stated = read_json(index).get("weight_map")
    except ModelError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(stated, dict) or not stated or not all(isinstance(name, str) for name in stated.values()):
        raise WeightsError(f"{index} names no files (weight_map). Fetch it again, or give the .safetensors files' folder.")
    parts = sorted(set(stated.values()))
    if away := [name for name in parts if not _NAME.fullmatch(name)]:
        raise WeightsError(f"{index} names {away[0][:80]!r}, which is no .safetensors file beside it. Fetch it again.")
    return parts


def note_shards_(model: nn.Module, files: list[Path]) -> nn.Module:
    """Note on a network that came in several files how large they are, so that a copy comes in files of that size."""
    note_(model, delayer_shard=max(file.stat().st_size for file in files) if len(files) > 1 else 0)
    return model


def _in_folder(folder: Path) -> Path:
    if (whole := folder / "model.safetensors").is_file():
        return whole
    for pattern in (f"*{INDEX}", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise WeightsError(
                f"{folder} holds {len(found)} weights ({', '.join(file.name for file in found[:3])}). Name the one that is meant."
            )
    raise WeightsError(f"{folder} holds no safetensors file. Give the folder that does, or the file.")
