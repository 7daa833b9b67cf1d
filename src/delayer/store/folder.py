"""Saving a cut network, and loading networks by name.

A cut network is a folder: `plan.json`, `model.safetensors` and `delayer.json` (the original's configuration and chain).
Loading rebuilds the original's skeleton, applies the plan's shapes and fills the weights. Where a plan only drops whole
blocks and the shortened network's own library opens it with the same outputs, the folder is an ordinary checkpoint of
that library (`config.json`, and the names of the weights as that library writes them).
"""

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from delayer.calling import Inputs, call, evaluating, output_of, ready, seeded
from delayer.chain import Chain
from delayer.errors import DelayerWarning, ModelError, StudyError
from delayer.hashing import check_finite
from delayer.libraries import first_line, library, quiet
from delayer.plan import Plan, read_plan
from delayer.store.artefact import Artefact, Made, Source
from delayer.store.closed import TIMM_FACTS, check_configuration, check_folder, check_timm, huggingface_class, timm_facts
from delayer.store.huggingface import from_pretrained
from delayer.store.integrity import RECORD, deciding_files, read_json, seal, verified
from delayer.store.originals import by_name, load_timm, mark_huggingface, source_of
from delayer.store.replacing import bring_back_, new_place, old_place, replace_
from delayer.store.skeletons import cut_skeleton, skeleton
from delayer.store.trust import MAX_DEPTH, Trust, allowed, check_source, nested
from delayer.store.weights import distinct_weights, fill_, read_weights
from delayer.study import share_, write_atomically


def load(name: str, *, weights: str | Path | None = None, factory: str | Callable[..., nn.Module] | None = None,
         trust: bool = False, allow_changed: bool = False, **arguments: Any) -> nn.Module:
    """A network by name, in evaluation mode and float32 unless it says otherwise.

    name: a folder that delayer saved, a Hugging Face name or folder, `timm:NAME`, or `package.module:factory` (the
    current folder can be imported from).
    weights: a safetensors file, loaded strictly; half-precision files load into single precision.
    factory: for a saved folder whose original network a function of yours builds: that function, or its name. One that
    this process was given before, by name, is known; nothing is ever imported because a file names it.
    trust: import and call whatever the folder names all the same.
    allow_changed: open a folder whose files are not those that were saved, with a DelayerWarning that says which.
    arguments: passed on to timm or to the factory.
    Raises UnknownName, ModelError, WeightsError (the weights are not those that were saved), NotFiniteError.
    """
    if (Path(name) / RECORD).is_file():
        everything, changed = allowed()
        model = _load_artefact(Path(name), Trust(factory, trust or everything, arguments), allow_changed or changed)
        if weights is not None:
            fill_(model, read_weights(weights), name=str(weights))
    elif factory is not None:
        raise ModelError(f"{name!r} is no folder that delayer saved, so no factory is needed to open it. Leave factory= out, or "
                         "name the factory itself instead.")
    else:
        model = by_name(name, weights, arguments)
    check_finite(model)
    return model.eval()


def example_of(inputs: Inputs, size: int = 2) -> Inputs:
    """The first samples of a batch of inputs."""
    if isinstance(inputs, Tensor):
        return inputs[:size]
    return {name: value[:size] for name, value in inputs.items()}


def save(model: nn.Module, plan: Plan, chain: Chain, folder: str | Path, *, example: Inputs, factory: str | None = None,
         lineage: Sequence[Made] = ()) -> Artefact:
    """Write a cut network to a folder and get what was written.

    chain: the ORIGINAL network's chain, as the plan numbers it.
    example: inputs of a small batch, with which an ordinary loader's network is compared.
    factory: package.module:factory for a network that was not loaded by delayer.
    lineage: the stages that made this network, in their order.
    All is on the disk before it takes the place of what stood there; see `recover_` for what a kill leaves.
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
    temporary = new_place(folder)
    try:
        recover_(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        plan.save(temporary / "plan.json")
        ordinary, note = _write_weights(model, plan, chain, source, temporary, example)
        _copy_tokenizer(source, temporary)
        for file in deciding_files(temporary).values():
            share_(file)
        tensors = {"": example} if isinstance(example, Tensor) else example
        artefact = seal(Artefact(
            delayer=__version__, source=source, chain=chain.facts(), ordinary=ordinary, ordinary_note=note,
            lineage=tuple(lineage),
            example={k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in tensors.items()}), temporary)
        replace_(folder)
    except (OSError, SafetensorError) as error:
        raise StudyError(
            f"{folder} could not be written ({getattr(error, 'strerror', None) or error}); what stood there before is untouched. "
            "Free some space or choose another folder."
        ) from error
    finally:
        if folder.exists() or not old_place(folder).exists():  # else it stopped between two renames, which `recover_` mends
            shutil.rmtree(temporary, ignore_errors=True)
    return artefact


def recover_(folder: str | Path) -> str:
    """Bring a saved folder back that a kill left under another name; what was done, in words, or "".

    Between the two renames of `save` the folder has no name: then the finished new one is put in its place, or else the old one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DelayerWarning)
        return bring_back_(Path(folder), lambda place: (verified(place), read_plan(place / "plan.json")))


def _load_artefact(folder: Path, trust: Trust, allow_changed: bool) -> nn.Module:
    artefact, said = verified(folder, allow_changed=allow_changed), str(folder)
    plan = read_plan(folder / "plan.json")
    if trust.factory is not None and _root(artefact.source, said).kind != "factory":
        raise ModelError(f"{folder} holds a network of {_root(artefact.source, said).name}, which no factory builds. Leave "
                         "factory= (--factory) out.")
    check_source(artefact.source, trust, said)
    if artefact.ordinary and artefact.source.kind == "huggingface":
        return load_ordinary(folder, artefact.source)
    if artefact.ordinary:
        return _load_timm_folder(folder, artefact.source)
    weights = read_weights(folder / "model.safetensors")
    model = cut_skeleton(skeleton(artefact.source, trust, said), artefact.chain, plan)
    fill_(model, weights, name=str(folder / "model.safetensors"))
    if hasattr(getattr(model, "config", None), "_name_or_path"):
        model.config._name_or_path = str(folder)  # its tokenizer or image processor is here
    first_cut = {"source": artefact.source.model_dump(mode="json"), "chain": artefact.chain,
                 "plan": plan.model_dump(mode="json")}  # fmt: skip
    model.delayer_source = Source(kind="delayer", name=str(folder), config=first_cut)
    return model


def _root(source: Source, said: str) -> Source:
    for _ in range(MAX_DEPTH):
        if source.kind != "delayer":
            break
        source = nested(source, said)
    return source


def load_ordinary(folder: Path, source: Source) -> nn.Module:
    """The folder as its library's own loader opens it; a network in its own right, which no longer needs its plan.

    Raises ModelError, before any loader is called, where the folder's configuration names what a file may not name.
    """
    config = _ordinary_config(folder, source)
    if source.kind == "timm":
        model = library("timm", "vision").create_model(f"local-dir:{folder}", pretrained=True)
        model.delayer_source = Source(kind="timm", name=source.name, config=config["model_args"])
        return model.eval()
    kind = huggingface_class(source.model_class, str(folder))
    return mark_huggingface(from_pretrained(kind, str(folder), **source.arguments), str(folder)).eval()


def _load_timm_folder(folder: Path, source: Source) -> nn.Module:
    """The network of timm's that the folder's configuration describes, without timm's loader: that opens pickles too."""
    config = _ordinary_config(folder, source, strict=False)
    model = load_timm(source.name, False, config["model_args"])
    model.pretrained_cfg = {**(model.pretrained_cfg or {}), **timm_facts(config.get("pretrained_cfg") or {})}
    return fill_(model, read_weights(folder / "model.safetensors"), name=str(folder / "model.safetensors"))


def _ordinary_config(folder: Path, source: Source, *, strict: bool = True) -> dict[str, Any]:
    """The configuration of an ordinary checkpoint, once it names nothing that a file may not name."""
    said = str(folder / "config.json")
    config = read_json(folder / "config.json")
    if source.kind == "timm":
        check_timm(config.get("architecture", ""), config.get("model_args") or {}, said)
        if strict and (further := config.get("pretrained_cfg", {}).keys() - TIMM_FACTS):
            raise ModelError(f"{said} says how pretrained weights are to be fetched ({', '.join(sorted(further)[:3])}), which is "
                             "not taken from a file. Take it out; the weights lie beside it.")
        config["model_args"] = dict(config.get("model_args") or {})
    else:
        check_configuration(config, said)
        check_folder(folder)
    return config


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
        stated = timm_facts(model.pretrained_cfg or {})
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
