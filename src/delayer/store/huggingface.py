"""Hugging Face networks by name, strictly: no weight is random, and no pickle is opened."""

import importlib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from delayer.errors import UnknownName, WeightsError
from delayer.libraries import first_line, library, quiet
from delayer.store.weights import check_fit, read_weights


def open_huggingface(name: str, weights: str | Path | None) -> nn.Module:
    """The network of a hub name or folder, with weights of its own or those of a safetensors file."""
    transformers = library("transformers", "text")
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(name)
    except Exception as error:
        raise UnknownName(
            f"{name!r} is neither a folder of delayer's, a timm:NAME, a package.module:factory, nor a Hugging Face "
            f"name or folder that can be opened ({first_line(error)}).{_hint(name)}"
        ) from error
    kind = getattr(transformers, (getattr(config, "architectures", None) or [""])[0], None)
    if kind is None:
        with quiet(transformers), torch.device("meta"):
            kind = type(transformers.AutoModel.from_config(config))
    if weights is None:
        return from_pretrained(kind, name)
    return from_pretrained(kind, None, config=config, state_dict=read_weights(weights))


def from_pretrained(kind: Any, name: str | None, **options: Any) -> nn.Module:
    """A Hugging Face network in float32, none of whose weights is random. Raises WeightsError."""
    transformers = library("transformers", "text")
    said = name or "the weights file"
    try:
        with quiet(transformers):
            model, report = kind.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **options,
                                                 ignore_mismatched_sizes=True, output_loading_info=True)
    except Exception as error:
        raise WeightsError(
            f"{said!r} has no safetensors weights that {kind.__name__} can load ({first_line(error)}). "
            "delayer never opens pickles; convert the weights to safetensors."
        ) from error
    missing = set(report["missing_keys"])
    if missing and all("pooler" in key for key in missing) and "add_pooling_layer" not in options:
        return from_pretrained(kind, name, add_pooling_layer=False, **options)
    shapes = [f"{key} is {list(given)} where the network has {list(own)}"
              for key, given, own in report["mismatched_keys"]]
    unexpected = report["unexpected_keys"] if name is None else ()  # a hub checkpoint may hold further heads
    check_fit(said, type(model).__name__, len(model.state_dict()), missing, unexpected, shapes)
    return model


def _hint(name: str) -> str:
    if Path(name).is_dir():
        return " The folder needs a config.json and model.safetensors."
    try:
        names = importlib.import_module("timm").list_models()
    except ImportError:
        return ""
    near = get_close_matches(name.split(".")[0], names, n=1, cutoff=0.8)
    return f" Did you mean timm:{near[0]}?" if near else ""
