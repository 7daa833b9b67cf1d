"""Saving a cut network, and loading networks by name.

A cut network is a folder: `plan.json`, `model.safetensors` and `delayer.json` (the original's configuration and chain).
Loading rebuilds the original's skeleton, applies the plan's shapes and fills the weights. Where a plan only drops whole
blocks and the shortened network's own library opens it with the same outputs, the folder is an ordinary checkpoint of
that library (`config.json`, and the names of the weights as that library writes them).
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from delayer.calling import Inputs, call, evaluating, output_of, ready, seeded
from delayer.chain import Chain
from delayer.errors import ModelError, StudyError
from delayer.hashing import check_finite
from delayer.libraries import first_line, library, quiet
from delayer.plan import Plan, read_plan
from delayer.store.huggingface import from_pretrained
from delayer.store.originals import Source, by_name, cut_skeleton, mark_huggingface, skeleton, source_of
from delayer.store.weights import distinct_weights, fill_, read_weights
from delayer.study import Record, read_record, share_, write_atomically


class Artefact(Record):
    """delayer.json: what a cut network's folder says of the original."""

    format: Literal[1] = 1
    delayer: str
    source: Source
    chain: dict[str, Any]
    example: dict[str, tuple[tuple[int, ...], str]]
    """Shape and type of each input of a small batch; "" names a lone tensor."""
    ordinary: str = ""
    """The loader that opens the folder as an ordinary checkpoint; "" when only delayer.load does."""
    ordinary_note: str = ""


def load(name: str, *, weights: str | Path | None = None, **arguments: Any) -> nn.Module:
    """A network by name, in evaluation mode and float32 unless it says otherwise.

    name: a folder that delayer saved, a Hugging Face name or folder, `timm:NAME`, or `package.module:factory` (the
    current folder can be imported from).
    weights: a safetensors file, loaded strictly; half-precision files load into single precision.
    arguments: passed on to timm or to the factory.
    Raises UnknownName, ModelError, WeightsError, NotFiniteError.
    """
    if (Path(name) / "delayer.json").is_file():
        model = _load_artefact(Path(name))
        if weights is not None:
            fill_(model, read_weights(weights), name=str(weights))
    else:
        model = by_name(name, weights, arguments)
    check_finite(model)
    return model.eval()


def example_of(inputs: Inputs, size: int = 2) -> Inputs:
    """The first samples of a batch of inputs."""
    if isinstance(inputs, Tensor):
        return inputs[:size]
    return {name: value[:size] for name, value in inputs.items()}


def save(model: nn.Module, plan: Plan, chain: Chain, folder: str | Path, *, example: Inputs,
         factory: str | None = None) -> Artefact:
    """Write a cut network to a folder and get what was written.

    chain: the ORIGINAL network's chain, as the plan numbers it.
    example: inputs of a small batch, with which an ordinary loader's network is compared.
    factory: package.module:factory for a network that was not loaded by delayer.
    Raises ModelError when the original could not be rebuilt, StudyError when the folder cannot be written.
    """
    from delayer import __version__

    if getattr(model, "delayer_edits", plan.edits) != plan.edits:
        raise ModelError(
            "This network was cut by another plan than the one given, or more than once since it was loaded, so it "
            "could not be rebuilt from this plan. Make one plan of all cuts, or save and load it between two cuts."
        )
    folder = Path(folder)
    source = source_of(chain.model, factory)
    temporary = folder.parent / f".{folder.name}.new"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        plan.save(temporary / "plan.json")
        ordinary, note = _write_weights(model, plan, chain, source, temporary, example)
        _copy_tokenizer(source, temporary)
        tensors = {"": example} if isinstance(example, Tensor) else example
        artefact = Artefact(
            delayer=__version__, source=source, chain=chain.facts(),
            example={k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in tensors.items()},
            ordinary=ordinary, ordinary_note=note,
        )
        write_atomically(temporary / "delayer.json", artefact.model_dump_json(indent=1))
        for file in temporary.iterdir():
            share_(file)
        old = folder.parent / f".{folder.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise StudyError(
            f"{folder} could not be written ({getattr(error, 'strerror', None) or error}); what stood there before is untouched. "
            "Free some space or choose another folder."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return artefact


def read_artefact(folder: str | Path) -> Artefact:
    """What a saved folder says of the original network. Raises ModelError when it is corrupted."""
    return read_record(Path(folder) / "delayer.json", Artefact, ModelError)


def _load_artefact(folder: Path) -> nn.Module:
    artefact, plan = read_artefact(folder), read_plan(folder / "plan.json")
    if artefact.ordinary:
        return load_ordinary(folder, artefact.source)
    weights = read_weights(folder / "model.safetensors")
    model = cut_skeleton(skeleton(artefact.source), artefact.chain, plan)
    fill_(model, weights, name=str(folder / "model.safetensors"))
    if hasattr(getattr(model, "config", None), "_name_or_path"):
        model.config._name_or_path = str(folder)  # its tokenizer or image processor is here
    first_cut = {"source": artefact.source.model_dump(mode="json"), "chain": artefact.chain,
                 "plan": plan.model_dump(mode="json")}  # fmt: skip
    model.delayer_source = Source(kind="delayer", name=str(folder), config=first_cut)
    return model


def load_ordinary(folder: Path, source: Source) -> nn.Module:
    """The folder as its library's own loader opens it; a network in its own right, which no longer needs its plan."""
    if source.kind == "timm":
        model = library("timm", "vision").create_model(f"local-dir:{folder}", pretrained=True)
        arguments = json.loads((folder / "config.json").read_text())["model_args"]
        model.delayer_source = Source(kind="timm", name=source.name, config=arguments)
        return model.eval()
    kind = getattr(library("transformers", "text"), source.model_class)
    return mark_huggingface(from_pretrained(kind, str(folder), **source.arguments), str(folder)).eval()


def _write_weights(model: nn.Module, plan: Plan, chain: Chain, source: Source, folder: Path, example: Inputs
                   ) -> tuple[str, str]:
    """Write the weights, as an ordinary checkpoint where that gives the same network; say its loader, or why not."""
    loader, note = "", "the plan puts new maps into the network, which its own loader does not know"
    if plan.drops_only:
        loader, note = _write_ordinary(model, chain, source, folder)
    if loader:
        try:
            again = load_ordinary(folder, source)
            with ready(model, example) as inputs, seeded():
                expected = output_of(call(model, inputs)).cpu()
            with evaluating(again), seeded():
                found = output_of(call(again, example))
            gap, largest = float((expected - found).abs().max()), float(expected.abs().max())
            if gap <= 1e-5 * max(1.0, largest):
                return loader, ""
            note = f"its own loader builds a different function (largest difference {gap:.2g})"
        except Exception as error:  # whatever a library's own loader raises means that the folder is not ordinary
            reason = first_line(error).replace(str(folder), "it").partition(". ")[0]
            note = f"its own loader refuses it ({reason})"
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            (folder / name).unlink(missing_ok=True)
    save_file(distinct_weights(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return "", note


def _write_ordinary(model: nn.Module, chain: Chain, source: Source, folder: Path) -> tuple[str, str]:
    """Write the network as its library does, and say what opens it, or why there is no such thing."""
    if source.kind == "huggingface" and chain.family.recount_:
        transformers = library("transformers", "text")
        with quiet(transformers):
            model.save_pretrained(folder, max_shard_size="1000GB")
        more = "".join(f", {key}={value}" for key, value in source.arguments.items())
        return f"transformers.{type(model).__name__}.from_pretrained(FOLDER{more})", ""
    if source.kind == "timm" and chain.family.rebuild_arguments:
        save_file(distinct_weights(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
        changed = chain.family.rebuild_arguments(Chain(model, chain.family, chain.blocks).lengths())
        stated = {k: v for k, v in (model.pretrained_cfg or {}).items() if v is not None}
        write_atomically(folder / "config.json", json.dumps({
            "architecture": source.name.split(".")[0], "num_classes": getattr(model, "num_classes", None),
            "model_args": dict(source.config) | changed, "pretrained_cfg": stated}, indent=1, default=list))
        return "timm.create_model('local-dir:FOLDER', pretrained=True)", ""
    if source.kind == "delayer":
        return "", "the network was no ordinary checkpoint before this cut either"
    return "", "this kind of network has no configuration that says how many blocks it has"


def _copy_tokenizer(source: Source, folder: Path) -> None:
    """A text network's tokenizer, or an image network's processor, travels with it where there is one."""
    if source.kind not in ("huggingface", "delayer") or not source.name:
        return
    transformers = library("transformers", "text")
    makers = {"tokenizer_config.json": transformers.AutoTokenizer,
              "preprocessor_config.json": transformers.AutoImageProcessor}  # fmt: skip
    for file, maker in makers.items():
        try:
            with quiet(transformers):
                # Without its file, a tokenizer would be made up from the configuration.
                transformers.utils.cached_file(source.name, file)
                maker.from_pretrained(source.name).save_pretrained(folder)
        except Exception:  # noqa: S112  a network without one is no error
            continue
