"""`imagefolder:PATH`: class folders of images, or one flat folder without labels."""

from pathlib import Path

import torch
from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, existing, fingerprint_of_files, no_part, sources

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"}

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


@sources.register("imagefolder")
def imagefolder(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Images decoded when they are touched; class k is the k-th folder by its name as text, its images at any depth below.

    Raises DataError for folders that are splits, not classes, and where there are no images.
    """
    from PIL import Image

    no_part(part, path)
    root = existing(path)
    if not root.is_dir():
        raise DataError(f"imagefolder:{path} is a file. Give the folder that holds the images or the class folders.")
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if folders and {folder.name.lower() for folder in folders} <= SPLITS:
        raise DataError(
            f"The folders of {path} ({', '.join(folder.name for folder in folders)}) are splits, not classes. "
            f"Give imagefolder:{root / folders[0].name}, and another by --test."
        )
    by_class = [_images(folder, "**/*") for folder in folders]
    loose = _images(root, "*")
    files, labels, names, notes = loose, None, None, []
    if any(by_class):
        files = [file for members in by_class for file in members]
        labels = torch.tensor([k for k, members in enumerate(by_class) for _ in members])
        names = tuple(folder.name for folder in folders)
        if empty := [name for name, members in zip(names, by_class, strict=True) if not members]:
            notes.append(
                f"{len(empty)} class folders of {path} hold no images ({', '.join(empty[:3])}); they count as classes all "
                "the same. Remove them if they are none."
            )
        if loose:
            notes.append(f"{len(loose)} images of {path} lie outside its class folders and are left out.")
    if not files:
        raise DataError(f"{path} holds no images ({', '.join(sorted(EXTENSIONS))}). Give the folder that does.")
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


def _images(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()
    )
