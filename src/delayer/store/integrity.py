"""Whether a saved network's folder is what was saved: every file that decides what loads has its hash in delayer.json.

The hashes find what happens to files (a flipped bit, half a copy, weights of another run); they do not say who wrote them.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from delayer.errors import DelayerWarning, ModelError, WeightsError
from delayer.store.artefact import Artefact
from delayer.study import read_record, write_atomically
from delayer.study.reading import parsed, read_bytes

RECORD = "delayer.json"
_DECIDES = (".json", ".safetensors", ".jinja", ".model", ".bin", ".pt", ".pth", ".py", ".pkl")
_NAMES = ("vocab.txt", "merges.txt")


def deciding_files(folder: Path) -> dict[str, Path]:
    """The files that loaders may read, by their place in the folder; exports and what people add are none of them."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path
        for name, path in found.items()
        if name != RECORD
        and not any(part.startswith(".") for part in name.split("/"))
        and (path.suffix in _DECIDES or path.name in _NAMES)
    }


def seal(artefact: Artefact, folder: Path) -> Artefact:
    """Write delayer.json, with the hashes of all other files and its own, and get the record."""
    artefact = artefact.model_copy(update={"files": {name: sha256(path) for name, path in deciding_files(folder).items()}})
    artefact = artefact.model_copy(update={"hash": ""})
    text = artefact.model_dump_json(indent=1)
    artefact = artefact.model_copy(update={"hash": hashlib.sha256(text.encode()).hexdigest()})
    write_atomically(folder / RECORD, artefact.model_dump_json(indent=1))
    return artefact


def read_artefact(folder: str | Path) -> Artefact:
    """What a saved folder says of itself. Raises ModelError when it is corrupted; its hashes are not compared."""
    return read_record(Path(folder) / RECORD, Artefact, ModelError)


def verified(folder: str | Path, *, allow_changed: bool = False) -> Artefact:
    """What a saved folder says of itself, once every file is found to be the one that was saved.

    allow_changed: say what changed in a warning instead of refusing it.
    Raises WeightsError for other weights, ModelError for any other file, each naming the file.
    """
    folder = Path(folder)
    artefact = read_artefact(folder)
    if artefact.format == 1 and not artefact.files and not artefact.hash:
        _say(f"{folder} was saved by an earlier version without hashes, so that nothing proves it intact. Save it again.")
        return artefact
    changed = _changed(folder, artefact)
    if changed and not allow_changed:
        raise (WeightsError if changed[0].split(" ")[0].endswith(".safetensors") else ModelError)(
            f"{folder} is not as it was saved: {'; '.join(changed[:3])}{' …' if len(changed) > 3 else ''}. Bring the saved "
            "files back, or allow it if you changed them yourself: load(..., allow_changed=True) or --allow-changed."
        )
    if changed:
        _say(f"{folder} is not as it was saved: {'; '.join(changed)}. It is opened all the same, as asked.")
    return artefact


def digest_of(folder: str | Path) -> str:
    """The verified identity of a saved network: SHA-256 over its files' hashes, its source and its chain.

    Two folders share it when they load as the same network, whoever made them by whatever stages.
    Raises WeightsError or ModelError naming the file that changed.
    """
    artefact = verified(folder)
    files = artefact.files if artefact.format > 1 else {n: sha256(p) for n, p in deciding_files(Path(folder)).items()}
    return record_hash({"files": files, "source": artefact.source.model_dump(mode="json"), "chain": artefact.chain})


def _changed(folder: Path, artefact: Artefact) -> list[str]:
    """What differs from what was saved, a few words each; weights first."""
    text = read_bytes(folder / RECORD, ModelError).replace(f'"hash": "{artefact.hash}"'.encode(), b'"hash": ""')
    found = [] if hashlib.sha256(text).hexdigest() == artefact.hash else [f"{RECORD} was changed"]
    there = deciding_files(folder)
    for name, stated in artefact.files.items():
        if name not in there:
            found.append(f"{name} is gone")
        elif sha256(there[name]) != stated:
            found.append(f"{name} was changed")
    found += [f"{name} was added" for name in there if name not in artefact.files]
    return sorted(found, key=lambda text: not text.split(" ")[0].endswith(".safetensors"))


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (or list) in a JSON file. Raises ModelError when there is none."""
    found = parsed(read_bytes(path, ModelError), str(path), ModelError)
    if not isinstance(found, kind):
        raise ModelError(f"{path} holds a {type(found).__name__} where a {kind.__name__} was expected. Bring the file back.")
    return found


def record_hash(record: dict) -> str:
    """SHA-256 over a JSON object without its field `hash`, its keys sorted."""
    text = json.dumps({key: value for key, value in record.items() if key != "hash"}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file. Raises ModelError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}). Restore it.") from error


def _say(text: str) -> None:
    warnings.warn(text, DelayerWarning, stacklevel=4)
