"""`imagefolder:PATH[#SPLIT]`: class folders of images, a flat folder without labels, or folders `train`, `val`, `test`."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, existing, fingerprint_of_files, sources
from delayer.tasks.sources._joining import PARTS, SPLITS, drawn_from, joined

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"}


@sources.register("imagefolder")
def imagefolder(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Images decoded when they are touched; class k is the k-th folder by its name as text, its images at any depth below.

    Folders that are splits are taken as such: fit is drawn from train, validation and test from val, or test from a test folder
    of its own. `#val` takes one of them alone. Links to folders and images are followed.
    Raises DataError where there are no images, and for splits without the classes of one another.
    """
    root = existing(path)
    if not root.is_dir():
        raise DataError(f"imagefolder:{path} is a file. Give the folder that holds the images or the class folders.")
    if part is not None:
        if not (root / part).is_dir():
            raise DataError(
                f"{path} has no folder {part!r} (#{part}); found {', '.join(f.name for f in _folders(root)) or 'none'}."
            )
        return _classes(root / part)
    folders = _folders(root)
    if not folders or not {folder.name.lower() for folder in folders} <= SPLITS.keys():
        return _classes(root)
    return _splits(root, folders)


def _splits(root: Path, folders: list[Path]) -> Samples:
    """The images of several splits in one, and from which rows each part is drawn."""
    by_part = {SPLITS[folder.name.lower()]: folder for folder in reversed(folders)}
    if doubled := [folder.name for folder in folders if by_part[SPLITS[folder.name.lower()]] != folder]:
        raise DataError(
            f"{root} has two folders for one split ({doubled[0]}). Name one, as in imagefolder:{root}#{folders[0].name}."
        )
    notes, found = [], {part: _classes(folder) for part, folder in by_part.items()}
    labelled = [part for part, samples in found.items() if samples.labels is not None]
    if len(labelled) not in (0, len(found)):
        for part in [part for part in found if part not in labelled]:
            notes.append(f"{by_part[part]} has no class folders, so it is left out.")
            del found[part]
    drawn, digest = drawn_from(found), [Path(s.name_of(i)) for s in found.values() for i in range(s.num)]
    samples = joined(found, {part: str(folder) for part, folder in by_part.items()}, fingerprint_of_files(root, digest))
    origins = ", ".join(f"{part} from {by_part[drawn[part]].name}" for part in PARTS)
    samples.notes[:0] = [f"The folders of {root} are splits: {origins}.", *notes]
    samples.drawn = {part: by_part[drawn[part]].name for part in PARTS}
    return samples


def _classes(root: Path) -> Samples:
    """The images of class folders, or of one flat folder."""
    from PIL import Image

    folders = _folders(root)
    by_class = [sorted(_images(folder)) for folder in folders]
    loose = sorted(_images(root, deep=False))
    files, labels, names, notes = loose, None, None, []
    if any(by_class):
        files = [file for members in by_class for file in members]
        labels = torch.tensor([k for k, members in enumerate(by_class) for _ in members])
        names = tuple(folder.name for folder in folders)
        if empty := [name for name, members in zip(names, by_class, strict=True) if not members]:
            notes.append(
                f"{len(empty)} class folders of {root} hold no images ({', '.join(empty[:3])}); they count as classes all "
                "the same. Remove them if they are none."
            )
        if loose:
            notes.append(f"{len(loose)} images of {root} lie outside its class folders and are left out.")
    if not files:
        raise DataError(f"{root} holds no images ({', '.join(sorted(EXTENSIONS))}). Give the folder that does.")
    return Samples(
        "images",
        len(files),
        lambda i: Image.open(files[i]),
        fingerprint_of_files(root, files),
        labels,
        names,
        name_of=lambda i: str(files[i]),
        notes=notes,
    )


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def _images(root: Path, *, deep: bool = True) -> Iterator[Path]:
    """The images in a folder and, if deep, below it, through links too, but into no folder that it is inside of."""
    for place, folders, files in os.walk(root, followlinks=True):
        real = Path(place).resolve()
        folders[:] = [
            name for name in folders if deep and (inner := (real / name).resolve()) != real and inner not in real.parents
        ]
        for name in files:
            file = Path(place) / name
            if file.suffix.lower() in EXTENSIONS and not name.startswith(".") and file.is_file():
                yield file
