"""The winner as a folder: weights as safetensors, and a configuration that rebuilds the network. No pickle."""

from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save
from torch import nn

from delayer.errors import NasError
from delayer.nas.data import NasData
from delayer.nas.options import SpaceOptions
from delayer.store.originals import Source
from delayer.store.weights import distinct_weights, fill_, read_weights
from delayer.study import Record, read_record, write_atomically


class WinnerConfig(Record):
    """config.json: all that builds the network again."""

    format: Literal[1] = 1
    space: SpaceOptions
    candidate: str
    in_channels: int
    num_classes: int
    preprocessing: dict[str, Any]


def network(**config: Any) -> nn.Module:
    """The untrained network of a configuration, for `delayer.load("delayer.nas:network", weights=..., **config)`."""
    stated = WinnerConfig.model_validate(config)
    model = stated.space.open().build(stated.candidate, in_channels=stated.in_channels, num_classes=stated.num_classes)
    model.preprocessing = stated.preprocessing
    model.delayer_source = Source(kind="factory", name="delayer.nas:network", config=stated.model_dump(mode="json"))
    return model


def save_winner(folder: Path, model: nn.Module, space: SpaceOptions, candidate: str, data: NasData) -> None:
    """Write weights and configuration."""
    config = WinnerConfig(space=space, candidate=candidate, in_channels=data.in_channels, num_classes=data.num_classes,
                          preprocessing=data.preprocessing)
    write_atomically(folder / "model.safetensors", save(distinct_weights(model)))
    write_atomically(folder / "config.json", config.model_dump_json(indent=1))


def load_winner(folder: str | Path) -> nn.Module:
    """The winner of a search, in evaluation mode, ready to use, or to be cut by delayer.

    folder: the search's, or the `winner` folder inside it. Raises NasError when there is none, WeightsError.
    """
    folder = Path(folder)
    folder = folder / "winner" if (folder / "winner").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise NasError(f"{folder} holds no winner (no config.json). Give the --out folder of a finished `delayer nas`.")
    config = read_record(folder / "config.json", WinnerConfig, NasError)
    weights = folder / "model.safetensors"
    return fill_(network(**config.model_dump()), read_weights(weights), name=str(weights)).eval()
