"""Saving a cut network, and loading networks by name.

A cut network is a folder: `plan.json`, `model.safetensors` and `delayer.json` (the original's configuration and chain).
Loading rebuilds the original's skeleton, applies the plan's shapes and fills the weights. Where a plan only drops whole
blocks and the shortened network's own library opens it with the same outputs, the folder is an ordinary checkpoint of
that library (`config.json`, and the names of the weights as that library writes them).
"""

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from delayer.cutting import Plan, read_plan
from delayer.errors import DelayerError, DelayerWarning, ModelError, StudyError, UnknownName
from delayer.libraries import first_line
from delayer.network.calling import Inputs
from delayer.network.chain import Chain
from delayer.network.hashing import check_finite, tensors_of
from delayer.network.notes import config_of, note_
from delayer.store.artefact import Artefact, Made, Source
from delayer.store.by_block import ByBlock, stays_in_files
from delayer.store.companions import copy_companions
from delayer.store.given import give
from delayer.store.huggingface import generation_of
from delayer.store.integrity import RECORD, deciding_files, read_json, seal, verified
from delayer.store.limits import check_counts, no_larger_than
from delayer.store.names import mended
from delayer.store.ordinary import load_ordinary, load_timm_folder, write_weights
from delayer.store.originals import by_name, source_of
from delayer.store.replacing import bring_back_, new_place, old_place, replace_
from delayer.store.shards import files_of, note_shards_
from delayer.store.skeletons import cut_skeleton, measured_skeleton, num_blocks
from delayer.store.trust import OURS, Trust, allowed, check_source, root
from delayer.store.weights import Stored, fill_, header, note_dtype_, read_weights, round_
from delayer.study import share_
from delayer.study.version import __version__


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    factory: str | Callable[..., nn.Module] | None = None,
    trust: bool = False,
    allow_changed: bool = False,
    by_block: ByBlock = "auto",
    **arguments: Any,
) -> nn.Module:
    """A network by name, in evaluation mode and float32 unless it says otherwise.

    name: a folder that delayer saved, a Hugging Face name or folder, `timm:NAME`, `gguf:PATH`, or `package.module:factory` (the
    current folder can be imported from).
    weights: a safetensors file, the index of several, or the folder of either, loaded strictly; half-precision files load into
    single precision. What wrappers put before names (`module.`, `model.`, `_orig_mod.`) is taken off, with a DelayerWarning.
    factory: for a saved folder whose original network a function of yours builds: that function, or its name. One that
    this process was given before, by name, is known; nothing is ever imported because a file names it.
    trust: import and call whatever the folder names all the same.
    allow_changed: open a folder whose files are not those that were saved, with a DelayerWarning that says which.
    by_block: "yes" leaves the weights of a Hugging Face network in their safetensors files, in the type that they are stored in,
    and reads one layer's at a time; "auto" does so where three copies in float32 do not fit into memory. Weights are changed by
    torch's operations then, not through `.data`.
    arguments: passed on to timm or to the factory.
    Raises UnknownName, ModelError, WeightsError (the weights are not those that were saved), NotFiniteError.
    """
    _check_name(name)
    if (Path(name) / RECORD).is_file():
        everything, changed = allowed()
        try:
            model = _load_artefact(Path(name), Trust(factory, trust or everything, arguments), allow_changed or changed, by_block)
        except DelayerError:
            raise
        except Exception as error:  # whatever comes of records that do not go together becomes one sentence
            raise ModelError(
                f"{name} cannot be opened, since what its files say does not go together ({type(error).__name__}: "
                f"{first_line(error)[:200]}). Bring the saved files back."
            ) from error
        if weights is not None:
            fill_(model, mended(read_weights(weights), tensors_of(model).keys(), str(weights)), name=str(weights))
    elif (Path(name) / "plan.json").is_file() and not (allow_changed or allowed()[1]):
        raise ModelError(
            f"{name} holds a plan and no {RECORD}, so that nothing proves it to be what was saved. Bring that "
            "file back, or open the folder all the same by load(..., allow_changed=True) or --allow-changed."
        )
    elif factory is not None:
        raise ModelError(
            f"{name!r} is no folder that delayer saved, so no factory is needed to open it. Leave factory= out, or "
            "name the factory itself instead."
        )
    else:
        model = by_name(name, weights, arguments, trust=trust or allowed()[0], by_block=by_block)
    check_finite(model)
    return model.eval()


def _check_name(name: str) -> None:
    """Raises UnknownName for a name that neither a file nor a network can have."""
    try:
        (Path(name) / RECORD).exists()
    except OSError as error:
        raise UnknownName(f"{name[:60]!r}… is the name of no network ({error.strerror}).") from error


def save(
    model: nn.Module,
    plan: Plan,
    chain: Chain,
    folder: str | Path,
    *,
    example: Inputs,
    factory: str | None = None,
    lineage: Sequence[Made] = (),
    dtype: Stored = "keep",
) -> Artefact:
    """Write a cut network to a folder and get what was written.

    chain: the ORIGINAL network's chain, as the plan numbers it.
    example: inputs of a small batch, with which an ordinary loader's network is compared.
    factory: package.module:factory for a network that was not loaded by delayer.
    lineage: the stages that made this network, in their order.
    dtype: what floating-point weights are saved in; "keep" means as the original is stored. For a half precision the network's
    weights are rounded to it first, so that what is in memory is what is saved. An original in several files is saved in files
    of that size, where it is saved as an ordinary checkpoint.
    All is on the disk before it takes the place of what stood there; see `recover_` for what a kill leaves.
    Raises ModelError when the original could not be rebuilt, StudyError when the folder cannot be written.
    """
    if getattr(model, "delayer_edits", plan.edits) != plan.edits:
        raise ModelError(
            "This network was cut by another plan than the one given, or more than once since it was loaded, so it "
            "could not be rebuilt from this plan. Make one plan of all cuts, or save and load it between two cuts."
        )
    folder = Path(folder)
    if factory is not None:
        give(factory)
    source, notes = source_of(chain.model, factory), []
    if (first := root(source, str(folder))).kind in ("timm", "huggingface") or first.name == OURS:
        check_source(source, Trust(), f"A saved copy of this {type(model).__name__}")
    half = getattr(chain.model, "delayer_dtype", "") if dtype == "keep" else dtype.replace("float32", "")
    if half and not round_(model, half):
        who = "The original is stored in" if dtype == "keep" else "This copy should be in"
        notes.append(f"{who} {half}, in which some of the cut's weights overflow; this copy is in float32.")
        half = ""
    note_(model, delayer_dtype=half)
    temporary = new_place(folder)
    try:
        recover_(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        plan.save(temporary / "plan.json")
        ordinary, note = write_weights(model, plan, chain, source, temporary, example, half)
        notes += copy_companions(source, model, temporary, ordinary=bool(ordinary))
        for file in deciding_files(temporary).values():
            share_(file)
        tensors = {"": example} if isinstance(example, Tensor) else example
        artefact = seal(
            Artefact(
                delayer=__version__,
                source=source,
                chain=chain.facts(),
                ordinary=ordinary,
                ordinary_note=note,
                lineage=tuple(lineage),
                notes=tuple(notes),
                example={k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in tensors.items()},
            ),
            temporary,
        )
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


def _load_artefact(folder: Path, trust: Trust, allow_changed: bool, by_block: ByBlock) -> nn.Module:
    artefact, where = verified(folder, allow_changed=allow_changed), str(folder)
    plan = read_plan(folder / "plan.json")
    if trust.factory is not None and root(artefact.source, where).kind != "factory":
        raise ModelError(
            f"{folder} holds a network of {root(artefact.source, where).name}, which no factory builds. Leave "
            "factory= (--factory) out."
        )
    check_source(artefact.source, trust, where)
    file = folder / "model.safetensors"
    files = files_of(folder)
    shapes = header(folder)
    dtypes = [dtype for dtype, _ in shapes.values()]
    if artefact.ordinary and artefact.source.kind in ("huggingface", "timm"):
        check_counts(read_json(folder / "config.json"), str(folder / "config.json"))
        mapped = artefact.source.kind == "huggingface" and stays_in_files(by_block, shapes)
        with no_larger_than(shapes, num_blocks(artefact), where):
            if artefact.source.kind == "huggingface":
                model = load_ordinary(folder, artefact.source, by_block=mapped)
            else:
                model = load_timm_folder(folder, artefact.source)
        if mapped or by_block != "yes":
            return note_shards_(note_dtype_(model, dtypes), files)
    if by_block == "yes":
        raise ModelError(
            f"{folder} cannot be opened with its weights in their files, which only an ordinary Hugging Face checkpoint can. "
            "Leave --by-block yes out."
        )
    model = cut_skeleton(measured_skeleton(artefact, shapes, trust, where), artefact.chain, plan)
    fill_(model, read_weights(file), name=str(file))
    note_dtype_(model, dtypes)
    if (folder / "generation_config.json").is_file():
        note_(model, generation_config=generation_of(str(folder)))
    if (config := config_of(model)) is not None and hasattr(config, "_name_or_path"):
        config._name_or_path = str(folder)  # its tokenizer or image processor is here
    first_cut = {"source": artefact.source.model_dump(mode="json"), "chain": artefact.chain, "plan": plan.model_dump(mode="json")}
    note_(model, delayer_source=Source(kind="delayer", name=str(folder), config=first_cut))
    return model
