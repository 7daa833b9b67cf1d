"""The winner as a folder: weights as safetensors, and a configuration that rebuilds the network. No pickle, no import."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from delayer.errors import DelayerWarning, NasError, WeightsError
from delayer.nas.data import NasData
from delayer.nas.options import SpaceOptions
from delayer.network.notes import note_
from delayer.store.artefact import Source
from delayer.store.given import give, given, is_name, remember
from delayer.store.integrity import record_hash, sha256
from delayer.store.limits import check_size
from delayer.store.weights import distinct_weights, fill_, read_weights
from delayer.study import Record, read_record, write_atomically


class WinnerConfig(Record):
    """config.json: all that builds the network again."""

    format: Literal[1, 2] = 2
    """1 is what delayer 0.1 wrote, without hashes."""
    space: SpaceOptions
    candidate: str
    in_channels: int
    num_classes: int
    preprocessing: dict[str, Any]
    weights_hash: str = ""
    """SHA-256 of model.safetensors."""
    hash: str = ""
    """SHA-256 over this record without this field, as JSON with sorted keys."""


def network(**config: Any) -> nn.Module:
    """The untrained network of a configuration, for `delayer.load("delayer.nas:network", weights=..., **config)`.

    Raises NasError where the configuration names a function that the user did not give in this process.
    """
    stated = config_of(config)
    model = stated.space.open().build(stated.candidate, in_channels=stated.in_channels, num_classes=stated.num_classes)
    source = Source(kind="factory", name="delayer.nas:network", config=stated.model_dump(mode="json"))
    note_(model, preprocessing=stated.preprocessing, delayer_source=source)
    return model


def config_of(config: dict[str, Any]) -> WinnerConfig:
    """The record that plain data hold. Raises NasError naming the field that is wrong."""
    try:
        return WinnerConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise NasError(
            f"This is no winner's configuration: {'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}. "
            "Give the config.json of a winner's folder."
        ) from error


def save_winner(folder: Path, model: nn.Module, space: SpaceOptions, candidate: str, data: NasData) -> None:
    """Write weights and configuration."""
    write_atomically(folder / "model.safetensors", save(distinct_weights(model)))
    config = WinnerConfig(
        space=space,
        candidate=candidate,
        in_channels=data.in_channels,
        num_classes=data.num_classes,
        preprocessing=data.preprocessing,
        weights_hash=sha256(folder / "model.safetensors"),
    )
    config = config.model_copy(update={"hash": record_hash(config.model_dump(mode="json"))})
    write_atomically(folder / "config.json", config.model_dump_json(indent=1))


def load_winner(
    folder: str | Path, *, own: str | Callable[..., Any] | None = None, trust: bool = False, allow_changed: bool = False
) -> nn.Module:
    """The winner of a search, in evaluation mode, ready to use, or to be cut by delayer.

    folder: the search's, or the `winner` folder inside it.
    own: for a search over your own blocks, or in a space of your own: that function, or its name. One that this process was
    given before is known; nothing is imported because the folder names it.
    trust: import whatever the folder names all the same.
    allow_changed: open files that are not those that were saved, with a DelayerWarning.
    Raises NasError when there is no winner, or when its own function is not given; WeightsError.
    """
    folder = Path(folder)
    folder = folder / "winner" if (folder / "winner").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise NasError(f"{folder} holds no winner (no config.json). Give the --out folder of a finished `delayer nas`.")
    config, weights = read_record(folder / "config.json", WinnerConfig, NasError), folder / "model.safetensors"
    _prove(folder, config, allow_changed)
    give_own(config, own, trust)
    given_weights = read_weights(weights)
    shapes = {name: (str(tensor.dtype), tuple(tensor.shape)) for name, tensor in given_weights.items()}
    check_size(lambda: network(**config.model_dump()), shapes, 0, str(folder / "config.json"))
    return fill_(network(**config.model_dump()), given_weights, name=str(weights)).eval()


def give_own(config: WinnerConfig, own: str | Callable[..., Any] | None, trust: bool) -> None:
    """Let the function that a configuration names be the caller's; with trust, the one that the file names."""
    if (name := config.space.own) and own is not None:
        remember(name, give(own) if isinstance(own, str) else own)
    elif name and trust and given(name) is None and is_name(name):
        give(name)


def _prove(folder: Path, config: WinnerConfig, allow_changed: bool) -> None:
    """Raises NasError or WeightsError naming the file that is not what was saved."""
    weights = folder / "model.safetensors"
    if config.format == 1:
        text = f"{folder} was saved by an earlier version without hashes, so that nothing proves it intact."
    elif record_hash(config.model_dump(mode="json")) != config.hash:
        text = f"{folder}/config.json is not as it was saved."
    elif weights.is_file() and sha256(weights) != config.weights_hash:
        text = f"{weights} is not as it was saved."
    else:
        return
    if not allow_changed and config.format > 1:
        raise (WeightsError if ".safetensors" in text else NasError)(
            f"{text} Bring the saved files back, or pass allow_changed=True if you changed them yourself."
        )
    warnings.warn(text, DelayerWarning, stacklevel=3)
