"""The arguments of timm that a network in memory was built with, read off it and proven by building it again."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from delayer.errors import ModelError
from delayer.libraries import library
from delayer.network.notes import pretrained_of
from delayer.store.closed import TIMM_NUMBERS


def timm_skeleton(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """An architecture of timm's without memory where that can be. Raises what timm raises."""
    timm = library("timm", "vision")
    try:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, **arguments)
    except (RuntimeError, NotImplementedError):  # some count their rates of dropping paths on tensors, which meta has none of
        return timm.create_model(name, pretrained=False, **arguments)


def timm_arguments(model: nn.Module) -> dict[str, Any]:
    """Arguments that, with its architecture's name, build a network of timm's. Raises ModelError where they cannot be told."""
    name, shapes = pretrained_of(model)["architecture"], _shapes(model)

    def distance(arguments: dict[str, Any]) -> float:
        """How many tensors are others then; infinity where timm builds nothing."""
        try:
            return len(shapes.items() ^ _shapes(timm_skeleton(name, arguments)).items())
        except Exception:  # whatever a constructor raises
            return float("inf")

    given: dict[str, Any] = {"num_classes": getattr(model, "num_classes", None)}
    if not (left := distance(given)):
        return given
    seen, flipped = list(_read_off(model)), list(_switches(model))
    # One may do only beside others (heads and a width that they divide), or be set by the architecture itself.
    for more in (dict(seen), *({argument: value} for argument, value in (*seen, *flipped, *seen, *flipped))):
        found = distance(given | more)
        if found < left or (found == left and "global_pool" in more and found < float("inf")):
            given, left = given | more, found
        if not left:
            return given
    raise ModelError(
        f"This {type(model).__name__} is not what timm.create_model({name!r}) builds, and the arguments that it was built with "
        f"cannot be told from it. Load it with delayer.load('timm:{name}', argument=value, …), or say which function makes it: "
        "save(..., factory='package.module:factory')."
    )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _read_off(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Arguments of its constructor that the network, or the first module that has such an attribute, tells."""
    lengths = [
        len(module)
        for path, module in model.named_modules()
        if path.rpartition(".")[2] == "blocks" and isinstance(module, nn.Sequential | nn.ModuleList)
    ]
    own = inspect.signature(type(model).__init__).parameters
    # What changes an answer and no shape comes first, so that it is given wherever it is another than the default.
    for name in sorted(own.keys() & (TIMM_NUMBERS | {"global_pool"}), key=lambda name: (name != "global_pool", name)):
        if name in ("depth", "depths"):
            found = (lengths or [None])[0] if name == "depth" else tuple(lengths)
        else:
            found = next((vars(m)[name] for m in model.modules() if name in vars(m)), None)
        if isinstance(found, int | float | str | tuple) and found != own[name].default:
            yield name, found


def _switches(model: nn.Module) -> Iterator[tuple[str, bool]]:
    """The switches of its constructor, the other way round than by default."""
    for name, parameter in inspect.signature(type(model).__init__).parameters.items():
        if name in TIMM_NUMBERS and isinstance(parameter.default, bool):
            yield name, not parameter.default
