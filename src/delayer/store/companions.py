"""What travels with a network: its tokenizer and processors, how it generates, and what a sentence encoder does behind it.

Nothing of a companion is run: one that brings Python of its own stays behind, and the saved folder says so.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from delayer.errors import ModelError
from delayer.libraries import first_line, gguf_place, library, quiet
from delayer.store.artefact import Source
from delayer.store.closed import check_configuration
from delayer.store.integrity import read_json
from delayer.store.pickles import recipe
from delayer.store.sentences import MODULES, home_of, moved
from delayer.study import write_atomically

TOKENIZERS = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
"""Files by which a folder is known to hold a tokenizer; without one, it would be made up from the configuration."""
PROCESSORS = {
    "preprocessor_config.json": "AutoImageProcessor",
    "video_preprocessor_config.json": "AutoVideoProcessor",
    "processor_config.json": "AutoProcessor",
}
"""Files of what prepares pictures, sound and films, and of the whole that joins them with the tokenizer."""
SENTENCE_FILES = (
    "modules.json",
    "config_sentence_transformers.json",
    *(f"sentence_{kind}_config.json" for kind in "bert roberta distilbert camembert albert xlm-roberta xlnet".split()),
)
"""Files of a sentence encoder's folder: its modules in order, its prompts and similarity, its longest text."""
MODULE_FILES = ("config.json", "model.safetensors", "cnn_config.json", "lstm_config.json")


def copy_companions(source: Source, model: nn.Module, folder: Path, *, ordinary: bool) -> list[str]:
    """Let them travel from where a network came from, and get what could not, a sentence each."""
    generation = getattr(model, "generation_config", None)
    if generation is not None and not ordinary:  # an ordinary checkpoint has its own
        generation.save_pretrained(folder)
    if source.kind not in ("huggingface", "delayer") or not source.name:
        return []
    notes = _copy_makers(source.name, folder)
    home, inner = home_of(source.name)
    if (path := _found(home, MODULES)) is None:
        return notes
    try:
        notes += _copy_sentence_modules(home, inner, read_json(path, list), folder)
    except (ModelError, OSError, KeyError, TypeError) as error:
        return [*notes, f"What the sentence encoder does behind the network could not be copied ({first_line(error)})."]
    if not ordinary:
        notes.append(
            "The folder says how a sentence encoder pools and normalises (modules.json), but SentenceTransformer opens "
            "ordinary checkpoints only, and this cut puts new maps into the network."
        )
    return notes


def _copy_makers(name: str, folder: Path) -> list[str]:
    transformers, notes = library("transformers", "text"), []
    if name.startswith("gguf:"):
        return _copy_gguf_tokenizer(name, folder)
    tokenizer = next((file for file in TOKENIZERS if _found(name, file) is not None), None)
    makers = {tokenizer: "AutoTokenizer"} if tokenizer else {}
    for file, maker in (makers | PROCESSORS).items():
        if (path := _found(name, file)) is None:
            continue
        try:
            if path.name.endswith("_config.json"):
                stated = read_json(path)
                check_configuration(stated, file)
                maker = "AutoFeatureExtractor" if "feature_extractor_type" in stated and maker != "AutoProcessor" else maker
            with quiet(transformers):
                getattr(transformers, maker).from_pretrained(name, trust_remote_code=False).save_pretrained(folder)
        except Exception as error:  # whatever the library raises
            notes.append(f"What {file} describes does not travel with this copy ({first_line(error)}).")
    return notes


def _copy_gguf_tokenizer(name: str, folder: Path) -> list[str]:
    """The tokenizer inside a GGUF file."""
    transformers, (place, options) = library("transformers", "text"), gguf_place(name)
    try:
        with quiet(transformers):
            transformers.AutoTokenizer.from_pretrained(place, **options, trust_remote_code=False).save_pretrained(folder)
    except Exception as error:  # whatever the library raises
        return [f"The tokenizer inside {name} does not travel with this copy ({first_line(error)})."]
    return []


def _copy_sentence_modules(name: str, inner: str, modules: list[dict[str, Any]], folder: Path) -> list[str]:
    """The list of a sentence encoder's modules, and the folders of those behind the network.

    inner: the network's own folder in the encoder's; what is saved lies in the folder itself.
    """
    foreign = [m["type"] for m in modules if not re.fullmatch(r"sentence_transformers\.[\w.]+", m["type"])]
    if foreign or not all(re.fullmatch(r"[A-Za-z0-9_]*", m["path"]) for m in modules):
        return [
            f"The sentence encoder's modules do not travel with this copy: {(foreign or ['a path'])[0]} is none of its library's."
        ]
    for module in modules:
        weights = [_found(name, f"{module['path']}/{file}") for file in ("model.safetensors", "pytorch_model.bin")]
        if module["path"] != inner and weights[1] is not None and weights[0] is None:
            return [
                f"The sentence encoder's modules do not travel with this copy: {module['path']} holds its weights in a pickle, "
                "which delayer never opens. Convert it where the original lies, in Python:\n"
                + recipe(weights[1], str(weights[1].with_name("model.safetensors")))
            ]
    for module in modules:
        if module["path"] == inner:
            continue
        for file in MODULE_FILES:
            if (found := _found(name, f"{module['path']}/{file}")) is not None:
                (folder / module["path"]).mkdir(exist_ok=True)
                shutil.copyfile(found, folder / module["path"] / file)
        (folder / module["path"]).mkdir(exist_ok=True)
    for file in SENTENCE_FILES:
        if (found := _found(name, f"{inner}/{file}") if inner else None) or (found := _found(name, file)):
            shutil.copyfile(found, folder / file)
    if inner:
        write_atomically(folder / MODULES, json.dumps(moved(modules, inner), indent=2))
    return []


def _found(name: str, file: str) -> Path | None:
    """Where a file of a folder, or of a hub name, lies on this machine; None where there is none."""
    transformers = library("transformers", "text")
    try:
        with quiet(transformers):
            path = transformers.utils.cached_file(
                name,
                file,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_connection_errors=False,
            )
    except Exception:  # a name that is neither a folder nor the hub's has no such file
        return None
    return Path(path) if path else None
