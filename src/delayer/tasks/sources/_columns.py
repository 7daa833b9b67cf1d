"""Tables as samples: which column is the text, the image and the label."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples
from delayer.tasks.sources._labels import labels_of
from delayer.tasks.sources._texts import TEXT_NAMES, TextColumns, by_names, from_columns, text_columns

IMAGE_NAMES = ("image", "img")
ARRAY_NAMES = ("x", "pixel_values")
LABEL_NAMES = ("label", "labels", "y", "class", "fine_label", "target")


def pick(columns: Collection[str], asked: str | None, known: Sequence[str], what: str, path: str) -> str | None:
    """The column that was asked for, or the first with a known name; None when there is none.

    Raises DataError when the column that was asked for is missing.
    """
    if asked is not None and asked not in columns:
        raise DataError(f"{path} has no column {asked!r}; found {', '.join(columns)}. Pass one of these as --{what}-column.")
    by_name = by_names(columns)
    return asked or next((by_name[name] for name in known if name in by_name), None)


def nothing_to_read(columns: Collection[str], path: str) -> DataError:
    """The error for a table in which no column is recognised."""
    return DataError(
        f"{path} has no column that is known to hold data; found {', '.join(map(str, columns)) or 'none'}. "
        f"Call it {TEXT_NAMES[0]!r} or {IMAGE_NAMES[0]!r}, or pass --text-column or --image-column."
    )


def unused(columns: Collection[str], used: Collection[str | None], label: str | None, path: str, labels: bool) -> list[str]:
    """A note where a table has columns left and no label was recognised: one of them may be it."""
    left = [str(name) for name in columns if name not in used]
    if label is not None or not labels or not left:
        return []
    return [
        f"No column of {path} is known to hold labels ({', '.join(LABEL_NAMES)}); {', '.join(left[:8])} "
        f"{'is' if len(left) == 1 else 'are'} not used. Name it by --label-column if one of them is the label."
    ]


def from_table(columns: Mapping[str, Sequence[Any]], path: str, options: TaskOptions, model: nn.Module) -> Samples:
    """Samples of a table of texts. Raises DataError where no column is recognised."""
    found = text_columns(columns, options, model, path)
    if found is None:
        raise nothing_to_read(columns, path)
    label = pick_label(columns, found, options, path)
    samples = from_columns(found, columns, None if label is None else columns[label], path, options, model)
    samples.notes += unused(columns, {found.first, found.second}, label, path, options.labels)
    return samples


def pick_label(columns: Collection[str], found: TextColumns | None, options: TaskOptions, path: str) -> str | None:
    """The column of labels, which is none of those of texts (an encoder-decoder's target is one)."""
    if not options.labels:
        return None
    left = [name for name in columns if found is None or name not in found or name == options.label_column]
    return pick(left, options.label_column, LABEL_NAMES, "label", path)


def from_dataset(dataset: Any, path: str, digest: str, options: Any, model: nn.Module) -> Samples:
    """Samples of a `datasets.Dataset`, images still encoded until they are touched."""
    import datasets

    columns = dataset.column_names
    of_kind = [name for name in columns if isinstance(dataset.features[name], datasets.Image)]
    image = pick(columns, options.image_column, IMAGE_NAMES, "image", path) or next(iter(of_kind), None)
    text = text_columns(columns, options, model, path)
    array = pick(columns, None, ARRAY_NAMES, "image", path)
    of_text = text is not None and (image is None or options.text_column is not None)
    label = pick_label(columns, text if of_text else None, options, path)
    labels, listed = None if label is None else list(dataset[label]), None
    if label is not None and isinstance(dataset.features[label], datasets.ClassLabel):
        listed = tuple(dataset.features[label].names)
    used = {text.first, text.second} if text is not None and of_text else {image or array}
    notes = unused(columns, used, label, path, options.labels)
    if text is not None and of_text:
        cells = {name: list(dataset[name]) for name in (text.first, text.second) if name is not None}
        samples = from_columns(text, cells, labels, path, options, model)
        samples.class_names = listed or samples.class_names
        samples.notes += notes
        return samples
    found = None if labels is None else labels_of(labels, path, options)
    numbers, names = found and found.values, listed or (found and found.names)
    notes += found.notes if found else []
    if image is not None:
        if image in of_kind:
            dataset = dataset.cast_column(image, datasets.Image(decode=False))
        return Samples(
            "images",
            len(dataset),
            lambda i: _opened(dataset[i][image]),
            digest,
            numbers,
            names,
            name_of=f"row {{}} of {path}".format,
            notes=notes,
        )
    if array is not None:
        import numpy as np

        return Samples(
            "arrays", len(dataset), lambda i: np.asarray(dataset[i][array], np.float32), digest, numbers, names, notes=notes
        )
    raise nothing_to_read(columns, path)


def _opened(cell: Any) -> Any:
    """A PIL image, its header read, from bytes, from a path, or from the two in a dict."""
    from io import BytesIO

    from PIL import Image

    if isinstance(cell, dict):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell["path"]
    return Image.open(BytesIO(cell) if isinstance(cell, bytes) else cell)
