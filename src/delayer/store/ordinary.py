"""Ordinary checkpoints: a cut network's folder as its own library writes and opens it, where that gives the same function."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from delayer.cutting import Plan
from delayer.errors import ModelError
from delayer.libraries import first_line, library, quiet
from delayer.network.calling import Inputs
from delayer.network.chain import Chain
from delayer.network.mapped import is_mapped
from delayer.network.notes import note_, pretrained_of
from delayer.store.artefact import Source
from delayer.store.closed import TIMM_FACTS, check_configuration, check_folder, check_timm, huggingface_class, timm_facts
from delayer.store.huggingface import from_pretrained, in_files, own_names
from delayer.store.integrity import read_json
from delayer.store.originals import load_timm, mark_huggingface
from delayer.store.proof import reload_proof
from delayer.store.shards import files_of
from delayer.store.shorter import NotOrdinary, Shortening, Shorter
from delayer.store.shorter.timm import architecture
from delayer.store.shorter.torchvision_program import PROGRAM
from delayer.store.shorter.torchvision_program import program as program_of
from delayer.store.streaming import distinct_tensors, write_shards, write_tensors
from delayer.store.weights import distinct_weights, fill_, read_weights
from delayer.study import write_atomically


def load_ordinary(folder: Path, source: Source, *, by_block: bool = False) -> nn.Module:
    """The folder as its library's own loader opens it; a network in its own right, which no longer needs its plan.

    by_block: the weights of a Hugging Face network stay in their files.
    Raises ModelError, before any loader is called, where the folder's configuration names what a file may not name.
    """
    config = _ordinary_config(folder, source)
    if source.kind == "timm":
        model = library("timm", "vision").create_model(f"local-dir:{folder}", pretrained=True)
        note_(model, delayer_source=Source(kind="timm", name=source.name, config=config["model_args"]))
        return model.eval()
    kind = huggingface_class(source.model_class, str(folder))
    if by_block:
        transformers = library("transformers", "text")
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        model = in_files(kind, str(folder), config, files_of(folder), {}, own_names(kind, config), **source.arguments)
        return mark_huggingface(model, str(folder)).eval()
    return mark_huggingface(from_pretrained(kind, str(folder), **source.arguments), str(folder)).eval()


def load_timm_folder(folder: Path, source: Source) -> nn.Module:
    """The network of timm's that the folder's configuration describes, without timm's loader: that opens pickles too."""
    config = _ordinary_config(folder, source, strict=False)
    model = load_timm(source.name, False, config["model_args"])
    note_(model, pretrained_cfg={**pretrained_of(model), **timm_facts(config.get("pretrained_cfg") or {})})
    return fill_(model, read_weights(folder / "model.safetensors"), name=str(folder / "model.safetensors"))


def _ordinary_config(folder: Path, source: Source, *, strict: bool = True) -> dict[str, Any]:
    """The configuration of an ordinary checkpoint, once it names nothing that a file may not name."""
    where = str(folder / "config.json")
    config = read_json(folder / "config.json")
    if source.kind == "timm":
        check_timm(config.get("architecture", ""), config.get("model_args") or {}, where)
        if strict and (further := config.get("pretrained_cfg", {}).keys() - TIMM_FACTS):
            raise ModelError(
                f"{where} says how pretrained weights are to be fetched ({', '.join(sorted(further)[:3])}), which is "
                "not taken from a file. Take it out; the weights lie beside it."
            )
        config["model_args"] = dict(config.get("model_args") or {})
    else:
        check_configuration(config, where)
        check_folder(folder)
    return config


def write_weights(
    model: nn.Module, plan: Plan, chain: Chain, source: Source, folder: Path, example: Inputs, dtype: str = ""
) -> tuple[str, str]:
    """Write the weights, as an ordinary checkpoint where that is proven to give the same network; say its loader, or why not.

    Proven: a fresh process opens the folder with the library's own loader, and finds the same answers and, of a network that
    generates, the same text (`reload_proof`).
    dtype: the half precision that floating-point tensors are stored in, "" for their own.
    """
    note = "the plan puts new maps into the network, which its own loader does not know"
    if plan.drops_only:
        try:
            short = Shortening(chain, source).without(plan.gone)
            loader = _WRITERS[source.kind](model, short, source, folder, dtype)
            program = folder / PROGRAM if source.kind == "factory" else None
            proof = reload_proof(model, folder, example, ordinary=source, program=program)
            if proof.passed:
                return loader, ""
            note = proof.note or f"its own loader builds a different function (largest difference {proof.max_abs_difference:.2g})"
        except NotOrdinary as reason:
            note = str(reason)
        except Exception as error:  # whatever a library's own writer or loader raises means that the folder is not ordinary
            note = f"its library does not write it ({first_line(error)})"
        note = note.replace(str(folder), "it")
        for file in (*folder.glob("*.safetensors*"), *(folder / name for name in WRITTEN)):
            file.unlink(missing_ok=True)
    if is_mapped(model):
        write_tensors(distinct_tensors(model), folder / "model.safetensors", dtype)
    else:
        save_file(distinct_weights(model, dtype), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return "", note


def _write_huggingface(model: nn.Module, short: Shorter, source: Source, folder: Path, dtype: str) -> str:
    """Write the shorter network as transformers does, and get what opens it."""
    transformers, names = library("transformers", "text"), short.renamed(model)
    kind: Any = type(model)
    if is_mapped(model):
        _write_in_files(model, short, names, source, folder, dtype)
        return _opens_with(kind, source)
    with quiet(transformers):
        network: Any = kind(kind.config_class.from_dict(deepcopy(short.config)), **source.arguments)
        network.load_state_dict({names[key]: value for key, value in model.state_dict().items()})
        if (generation := getattr(model, "generation_config", None)) is not None:
            network.generation_config = deepcopy(generation)
        state = {
            key: value.to(getattr(torch, dtype)) if dtype and value.is_floating_point() else value
            for key, value in network.state_dict().items()
        }
        network.save_pretrained(folder, state_dict=state, max_shard_size=getattr(model, "delayer_shard", 0) or "1000GB")
    if dtype:
        config = read_json(folder / "config.json") | {"dtype": dtype}
        write_atomically(folder / "config.json", json.dumps(config, indent=2))
    return _opens_with(kind, source)


def _opens_with(kind: Any, source: Source) -> str:
    more = "".join(f", {key}={value}" for key, value in source.arguments.items())
    return f"transformers.{kind.__name__}.from_pretrained(FOLDER{more})"


def _write_in_files(model: nn.Module, short: Shorter, names: dict[str, str], source: Source, folder: Path, dtype: str) -> None:
    """The same for a network whose weights lie in files: configuration, and the weights one after another."""
    transformers, kind = library("transformers", "text"), type(model)
    kind_: Any = kind
    with quiet(transformers), torch.device("meta"):
        network: Any = kind_(kind_.config_class.from_dict(deepcopy(short.config)), **source.arguments)
    if set(network.state_dict()) != set(names.values()):
        raise NotOrdinary("its own library names the tensors of the shorter network otherwise")
    tensors = distinct_tensors(model, names, frozenset(getattr(network, "all_tied_weights_keys", ())))
    floats = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()}
    network.config.dtype = dtype or (floats.pop() if len(floats) == 1 else "float32")
    network.config.architectures = [kind.__name__]
    with quiet(transformers):
        network.config.save_pretrained(folder)
        if network.can_generate():
            settings = getattr(model, "generation_config", None) or network.generation_config
            settings.save_pretrained(folder)
    write_shards(tensors, folder, getattr(model, "delayer_shard", 0), dtype)


def _write_timm(model: nn.Module, short: Shorter, source: Source, folder: Path, dtype: str) -> str:
    """Write the shorter network as a folder of timm's, and get what opens it."""
    names = short.renamed(model)
    weights = {names[key]: value for key, value in distinct_weights(model, dtype).items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = {
        "architecture": architecture(source, model),
        "num_classes": getattr(model, "num_classes", None),
        "model_args": short.config,
        "pretrained_cfg": timm_facts(pretrained_of(model)),
    }
    write_atomically(folder / "config.json", json.dumps(config, indent=1, default=list))
    return "timm.create_model('local-dir:FOLDER', pretrained=True)"


def _write_torchvision(model: nn.Module, short: Shorter, source: Source, folder: Path, dtype: str) -> str:
    """Write the weights as they are, and a program that opens them with torchvision alone; get what to call.

    `delayer.load` goes the way of every factory's network: no file of a folder is ever run.
    """
    save_file(distinct_weights(model, dtype), str(folder / "model.safetensors"), metadata={"format": "pt"})
    write_atomically(folder / PROGRAM, program_of(type(model), short.config, short.renamed(model)))
    return f"{PROGRAM.removesuffix('.py')}.model()"


_WRITERS = {"huggingface": _write_huggingface, "timm": _write_timm, "factory": _write_torchvision}
WRITTEN = ("config.json", "generation_config.json", PROGRAM)
