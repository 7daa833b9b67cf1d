"""Hugging Face networks by name, strictly: no weight is random, no pickle is opened, and no code of theirs is run."""

import importlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import DelayerError, DelayerWarning, UnknownName, WeightsError
from delayer.libraries import first_line, library, quiet
from delayer.network.notes import config_of, note_
from delayer.network.rescaled import settle_
from delayer.network.wrapped import check_not_quantised
from delayer.store.by_block import ByBlock, check_can_stay, opened_by_block, stays_in_files, with_place
from delayer.store.closed import check_configuration, check_folder, huggingface_class
from delayer.store.limits import Shapes, check_counts, check_size, no_larger_than
from delayer.store.names import mended_names, say_mended
from delayer.store.pickles import how_to_convert
from delayer.store.shards import files_of, note_shards_, part_names
from delayer.store.weights import check_fit, header, note_dtype_, read_weights

_HEADS = (
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForImageClassification",
    "AutoModelForPreTraining",
)
"""Kinds of heads, for a configuration that names no class; the first wins among those that fit a file equally well."""


def open_huggingface(name: str, weights: str | Path | None, *, trust: bool = False, by_block: ByBlock = "no") -> nn.Module:
    """The network of a hub name or folder, with weights of its own or those of a safetensors file.

    trust: do not look for what its configuration names. Code that it brings is never run. by_block: whether its weights stay in
    their files.
    """
    transformers = library("transformers", "text")
    try:
        with quiet(transformers):
            stated, _ = transformers.PreTrainedConfig.get_config_dict(name)
    except Exception as error:
        raise _unknown(name, error) from error
    check_not_quantised(stated, name)
    files = files_of(weights) if weights is not None else weight_files(name)
    shapes = {key: shape for file in files for key, shape in header(file).items()}
    if not trust:
        check_configuration(stated, name)
        check_counts(stated, name, shapes)
        if Path(name).is_dir():
            check_folder(Path(name))
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise _unknown(name, error) from error
    asked = (getattr(config, "architectures", None) or [""])[0]
    if isinstance(asked, str) and hasattr(transformers, asked):
        kind = getattr(transformers, asked) if trust else huggingface_class(asked, name)
    else:
        kind = _class_of(config, shapes, name)
    if shapes and not trust:
        with quiet(transformers):
            check_size(lambda: kind(config), shapes, 0, name)
    own = own_names(kind, config)
    names, taken = mended_names(shapes, own, f"{kind.base_model_prefix}.")
    if stays_in_files(by_block, shapes):
        say_mended(str(weights or name), taken)
        model = in_files(kind, name, config, files, names, own)
    elif weights is None and not taken:
        model = from_pretrained(kind, name)
    else:
        where = str(weights or name)
        say_mended(where, taken)
        given = {names[key]: value for file in files for key, value in read_weights(file).items()}
        model = from_pretrained(kind, None, config=config, state_dict=given)
        if (settings := generation_of(name)) is not None:
            note_(model, generation_config=settings)
    if files:
        note_shards_(model, files)
    return note_dtype_(settle_(model), (dtype for dtype, _ in shapes.values()))


def in_files(
    kind: Any, name: str, config: Any, files: Sequence[Path], names: Mapping[str, str], own: Collection[str], **arguments: Any
) -> nn.Module:
    """The network of a folder or hub name, whose weights stay in their files.

    names: of its tensors, by those in the files. own: all names that it has a place for. arguments: of its class.
    """
    check_can_stay(files, name)

    def build(state: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
        given = with_place(state, own, name, kind.__name__)
        return from_pretrained(kind, None, config=config, state_dict=given, dtype=dtype, **arguments)

    model = opened_by_block(names, files, build, name)
    config_of(model)._name_or_path = name
    if (settings := generation_of(name)) is not None:
        note_(model, generation_config=settings)
    return model


def generation_of(name: str) -> Any:
    """How a network of a folder or hub name generates, as its generation_config.json says; None where it has none."""
    transformers = library("transformers", "text")
    try:
        with quiet(transformers):
            return transformers.GenerationConfig.from_pretrained(name)
    except (OSError, ValueError, TypeError):
        return None


def weight_files(name: str) -> list[Path]:
    """The safetensors files of a folder or hub name; none where it has none."""
    transformers = library("transformers", "text")
    found = []
    for file in ("model.safetensors", "model.safetensors.index.json"):
        with quiet(transformers):
            path = transformers.utils.cached_file(
                name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
            )
        if path and file.endswith(".json"):
            found = [Path(transformers.utils.cached_file(name, part)) for part in part_names(Path(path))]
        elif path:
            return [Path(path)]
    return found


def own_names(kind: Any, config: Any) -> set[str]:
    """The names of a class's tensors; none where it cannot be built without memory."""
    transformers = library("transformers", "text")
    try:
        with quiet(transformers), torch.device("meta"):
            return set(kind(config).state_dict())
    except Exception:  # the true building says better what is wrong
        return set()


def _class_of(config: Any, shapes: Shapes, where: str) -> Any:
    """The class whose weights a file holds, for a configuration that names none: it has a place for most of them."""
    transformers = library("transformers", "text")
    given, found = set(shapes), {}
    for head in _HEADS:
        kind = getattr(transformers, head)._model_mapping.get(type(config), None)
        for one in kind if isinstance(kind, tuple) else (kind,):
            if one is None or one in found:
                continue
            with quiet(transformers), no_larger_than(shapes, 0, where) if shapes else nullcontext(), torch.device("meta"):
                model = one(config)
            own = model.state_dict().keys()
            bare = [{key.removeprefix(f"{one.base_model_prefix}.") for key in keys} for keys in (own, given)]
            tied = set(getattr(model, "all_tied_weights_keys", ()))
            # Of two that fit alike, the one under whose very names the weights lie: a head may be tied, and in no file.
            found[one] = (len(bare[1] - bare[0]), len(bare[0] - bare[1] - tied), len(given - own))
    if not found:
        raise UnknownName(f"transformers has no network for a {type(config).__name__}. Name its class under `architectures`.")
    return min(found, key=found.__getitem__)


def _unknown(name: str, error: Exception) -> UnknownName:
    return UnknownName(
        f"{name!r} is neither a folder of delayer's, a timm:NAME, a gguf:PATH, a package.module:factory, nor a Hugging Face "
        f"name or folder that can be opened ({first_line(error)}).{_hint(name)}"
    )


def from_pretrained(kind: Any, name: str | None, *, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    """A Hugging Face network in float32 or another type, none of whose weights is random. Raises WeightsError."""
    transformers = library("transformers", "text")
    where = name or "the weights file"
    try:
        with quiet(transformers):
            model, report = kind.from_pretrained(
                name,
                dtype=dtype,
                use_safetensors=True,
                **options,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except DelayerError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{where!r} has no safetensors weights that {kind.__name__} can load ({first_line(error)}). "
            f"delayer never opens pickles; convert the weights to safetensors{how_to_convert(name)}"
        ) from error
    missing = set(report["missing_keys"])
    if missing and all("pooler" in key for key in missing) and "add_pooling_layer" not in options:
        return from_pretrained(kind, name, dtype=dtype, add_pooling_layer=False, **options)
    shapes = [f"{key} is {list(given)} where the network has {list(own)}" for key, given, own in report["mismatched_keys"]]
    unexpected = report["unexpected_keys"] if name is None else ()
    if name is not None and (more := sorted(report["unexpected_keys"])):  # a hub checkpoint may hold further heads
        warnings.warn(
            f"{where} holds {len(more)} tensors for which {type(model).__name__} has no place ({', '.join(more[:3])}"
            f"{', …' if len(more) > 3 else ''}); they are left out.",
            DelayerWarning,
            stacklevel=2,
        )
    check_fit(where, type(model).__name__, len(model.state_dict()), missing, unexpected, shapes)
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
