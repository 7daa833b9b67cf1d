"""`hf:NAME[/CONFIG][#SPLIT]`: a data set of the Hugging Face hub, or a local folder of one."""

from pathlib import Path
from typing import Any

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, fingerprint, fingerprint_of_files, sources
from delayer.tasks.sources._columns import from_dataset
from delayer.tasks.sources._joining import PARTS, SPLITS, joined


@sources.register("hf")
def hf(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Rows of one split, the one named behind '#' or the only one; or of train, validation and test, each for its part.

    Of splits that are none of these (SPLITS) train alone is read, or the one that stands where there is no train. One whose
    labels are all hidden (below 0), as a benchmark's test split, is left out.
    A local folder is what `save_to_disk` wrote, or anything else that `datasets.load_dataset` reads.
    Raises DataError with the library's reason, or naming the splits found.
    """
    from datasets import DatasetDict

    local = Path(path).is_dir()
    dataset = _from_disk(path) if local else _from_hub(path)
    notes, name = [], part
    if isinstance(dataset, DatasetDict) and part is None and len(by_part := _by_part(dataset)) > 1 and "fit" in by_part:
        return _all_parts(path, local, dataset, by_part, options, model)
    if isinstance(dataset, DatasetDict):
        name = part or ("train" if "train" in dataset or len(dataset) != 1 else next(iter(dataset)))
        found = ", ".join(map(str, dataset))
        if name not in dataset:
            raise DataError(f"hf:{path} has no split {name!r}; found {found}. Pick one by hf:{path}#SPLIT.")
        if part is None and len(dataset) > 1:
            notes.append(f"hf:{path} has the splits {found}; {name} is used.")
        dataset = dataset[name]
    elif part is not None and part != str(dataset.split):
        raise DataError(f"hf:{path} holds one split, {dataset.split}, not {part}. Leave #{part} out.")
    samples = from_dataset(dataset, f"hf:{path}", _digest(path, local, str(name), dataset), options, model)
    samples.notes[:0] = notes
    return samples


def _by_part(dataset: Any) -> dict[str, str]:
    """For each part the first split that is for it."""
    return {SPLITS[name.lower()]: name for name in reversed(list(map(str, dataset))) if name.lower() in SPLITS}


def _all_parts(path: str, local: bool, dataset: Any, by_part: dict[str, str], options: TaskOptions, model: nn.Module) -> Samples:
    """The splits in one, each part drawn from its own."""
    found, notes = {}, []
    for part in (part for part in PARTS if part in by_part):
        name = by_part[part]
        digest = _digest(path, local, name, dataset[name])
        samples = from_dataset(dataset[name], f"hf:{path}#{name}", digest, options, model)
        if options.labels and part != "fit" and samples.labels is not None and samples.num and int(samples.labels.max()) < 0:
            notes.append(f"The labels of hf:{path}#{name} are hidden ({int(samples.labels.max())}), so it is left out.")
        elif samples.num:
            found[part] = samples
    if left := [str(name) for name in dataset if name not in by_part.values()]:
        notes.append(f"hf:{path} has further splits, which are not used: {', '.join(left)}.")
    whole = joined(found, by_part, fingerprint(*(samples.fingerprint for samples in found.values())))
    origins = ", ".join(f"{part} from {name}" for part, name in (whole.drawn or {}).items())
    whole.notes[:0] = [f"The splits of hf:{path}: {origins}.", *notes]
    return whole


def _digest(path: str, local: bool, name: str, dataset: Any) -> str:
    if local:
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        return fingerprint(fingerprint_of_files(Path(path), files), name)
    return fingerprint(path, name, str(dataset.features), str(len(dataset)))


def _from_disk(path: str) -> Any:
    from datasets import load_dataset, load_from_disk

    saved = any((Path(path) / name).exists() for name in ("dataset_dict.json", "state.json"))
    try:
        return load_from_disk(path) if saved else load_dataset(path)
    except Exception as error:  # the library raises whatever its parts raise
        raise DataError(f"{path} is no folder that the datasets library reads ({error}).") from error


def _from_hub(path: str) -> Any:
    from datasets import load_dataset, packaged_modules

    name, slash, config = path.rpartition("/")
    # "a/b" may be an owner's data set or a configuration of one without owner, such as glue/sst2.
    tries: list[tuple[str, str | None]] = [] if path.count("/") > 1 else [(path, None)]
    tries += [(name, config)] if slash else []
    if path.split("/")[0] in packaged_modules._PACKAGED_DATASETS_MODULES:
        raise DataError(
            f"hf:{path} names a reader of the datasets library, which would take every file below {Path.cwd()}. "
            "Give the name of a data set, or hf:FOLDER."
        )
    reasons = []
    for owner, one in tries:
        try:
            return load_dataset(owner, one)
        except Exception as error:  # no connection, no such name, a script that is no longer run, ...
            reasons.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    raise DataError(
        f"hf:{path} is no local folder, and the hub did not give it ({'; '.join(reasons)}). "
        "Check the name and the connection, or download it and give its folder."
    )
