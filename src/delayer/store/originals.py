"""Networks by name, from Hugging Face, timm or a factory, and the records from which each can be built again.

No pickle anywhere: weights come from safetensors files.
"""

import json
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from delayer.errors import DelayerError, ModelError, UnknownName
from delayer.libraries import first_line, library
from delayer.network.hashing import tensors_of
from delayer.network.notes import config_of, note_, pretrained_of
from delayer.network.wrapped import unwrapped
from delayer.store.artefact import Source
from delayer.store.by_block import ByBlock
from delayer.store.closed import check_timm_folder
from delayer.store.gguf import open_gguf
from delayer.store.given import give, is_name
from delayer.store.huggingface import open_huggingface
from delayer.store.names import mended
from delayer.store.sentences import network_of
from delayer.store.timm_arguments import timm_arguments
from delayer.store.weights import fill_, header, note_dtype_, read_weights


def by_name(
    name: str, weights: str | Path | None, arguments: Mapping[str, Any], *, trust: bool = False, by_block: ByBlock = "no"
) -> nn.Module:
    """A network whose name is no folder of delayer's; see `delayer.load`."""
    is_timm = name.startswith("timm:")
    huggingface = not name.startswith(("timm:", "gguf:")) and not is_name(name)
    if by_block == "yes" and not huggingface:
        raise ModelError(
            f"{name} cannot be opened with its weights in their files, which only a Hugging Face name or folder with safetensors "
            "can. Leave --by-block yes out, or save the network as such a folder first."
        )
    if name.startswith("gguf:"):
        if weights is not None or arguments:
            raise ModelError(f"{name} brings its weights and its configuration with it. Leave --weights and other arguments out.")
        return mark_huggingface(open_gguf(name), name)
    if huggingface:
        name = network_of(name)
        return mark_huggingface(open_huggingface(name, weights, trust=trust, by_block=by_block), name)
    if name.startswith("timm:local-dir:") and not trust:
        check_timm_folder(Path(name.removeprefix("timm:local-dir:")))
    model = load_timm(name[5:], weights is None, arguments) if is_timm else call_factory(name, give(name), arguments)
    if weights is None:
        return model
    given = mended(read_weights(weights), tensors_of(model).keys(), str(weights))
    return note_dtype_(fill_(model, given, name=str(weights)), (dtype for dtype, _ in header(weights).values()))


def source_of(model: nn.Module, factory: str | None = None) -> Source:
    """Where a network comes from. Raises ModelError for one in memory whose maker is not known."""
    if factory is not None:
        return Source(kind="factory", name=factory)
    if isinstance(source := getattr(model, "delayer_source", None), Source):
        return source
    if _is_huggingface(model) and not hasattr(model, "delayer_edits"):
        return _huggingface_source(model, getattr(config_of(model), "_name_or_path", ""))
    if (stated := pretrained_of(model)).get("architecture"):
        return Source(kind="timm", name=stated["architecture"], config=timm_arguments(model))
    raise ModelError(
        f"This {type(model).__name__} was not loaded by delayer{_changed(model)}, so a saved copy could not be "
        "rebuilt. Load it with delayer.load, cut a copy (`apply` leaves the original as it was), or say which function "
        "makes it: save(..., factory='package.module:factory')."
    )


def _is_huggingface(model: nn.Module) -> bool:
    return hasattr(config_of(model), "to_dict") and type(model).__module__.startswith("transformers.")


def _changed(model: nn.Module) -> str:
    return " and was cut in place" if hasattr(model, "delayer_edits") else ""


def mark_huggingface(model: nn.Module, name: str) -> nn.Module:
    """Note on a Hugging Face network how it can be built again."""
    note_(model, delayer_source=_huggingface_source(model, name))
    return model


def _huggingface_source(model: nn.Module, name: str) -> Source:
    bare = hasattr(model, "pooler") and model.pooler is None
    return Source(
        kind="huggingface",
        name=name,
        model_class=type(model).__name__,
        config=json.loads(config_of(model).to_json_string(use_diff=False)),
        arguments={"add_pooling_layer": False} if bare else {},
    )


def load_timm(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> nn.Module:
    """An architecture of timm's, by its name. Raises UnknownName, with names like it."""
    timm = library("timm", "vision")
    if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(name.split(".")[0]):
        near = get_close_matches(name, timm.list_models(), n=3)
        raise UnknownName(
            f"timm has no model {name!r}. " + (f"Did you mean {' or '.join(near)}?" if near else "See timm.list_models().")
        )
    try:
        model = timm.create_model(name, pretrained=pretrained, **arguments)
    except DelayerError:
        raise
    except Exception as error:  # whatever a download or a constructor raises becomes one sentence
        what = f"{name!r} with its pretrained weights" if pretrained else f"{name!r}"
        advice = "Check the network connection, or give --weights FILE.safetensors." if pretrained else ""
        raise ModelError(f"timm could not build {what}: {first_line(error)}. {advice}".rstrip()) from error
    note_(model, delayer_source=Source(kind="timm", name=name, config=dict(arguments)))
    return model


def call_factory(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a factory of the user's builds. Raises ModelError for whatever it raises, or gives instead."""
    try:
        model = factory(**arguments)
    except DelayerError:
        raise
    except Exception as error:
        stated = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ModelError(
            f"{name}({stated}) failed with {type(error).__name__}: {first_line(error)}. "
            "A factory is called with no other arguments than these."
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{name!r} gave a {type(model).__name__} where a torch.nn.Module was expected. Return the network itself."
        )
    model = unwrapped(model)
    note_(model, delayer_source=Source(kind="factory", name=name, config=dict(arguments)))
    return model
