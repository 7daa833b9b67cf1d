"""Tables as samples: which column is the text, the image and the label."""

from collections.abc import Collection, Sequence
from typing import Any

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, fingerprint
from delayer.tasks.sources._labels import labels_of

TEXT_NAMES = ("text", "sentence", "review", "content")
IMAGE_NAMES = ("image", "img")
ARRAY_NAMES = ("x", "pixel_values")
LABEL_NAMES = ("label", "labels", "y", "class", "fine_label", "target")


def pick(columns: Collection[str], asked: str | None, known: Sequence[str], what: str, path: str) -> str | None:
    """The column that was asked for, or the first with a known name; None when there is none.

    Raises DataError when the column that was asked for is missing.
    """
    if asked is not None and asked not in columns:
        raise DataError(f"{path} has no column {asked!r}; found {', '.join(columns)}. Pass one of these as --{what}-column.")
    by_name = {str(name).lower(): name for name in reversed(list(columns))}
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


def from_texts(texts: Sequence[str], labels: Sequence[Any] | None, path: str, options: TaskOptions = TaskOptions()) -> Samples:
    """Samples of texts; labels as `labels_of` reads them. Empty texts are left out."""
    full = [i for i, text in enumerate(texts) if isinstance(text, str) and text.strip()]
    notes = [f"{len(texts) - len(full)} empty texts of {path} are left out."] if len(full) < len(texts) else []
    texts = [texts[i] for i in full]
    digest = fingerprint(*texts, *(() if labels is None else map(str, labels)))
    found = None if labels is None else labels_of([labels[i] for i in full], path, options)
    return Samples(
        "texts",
        len(texts),
        texts.__getitem__,
        digest,
        found and found.values,
        found and found.names,
        notes=notes + (found.notes if found else []),
    )


def from_dataset(dataset: Any, path: str, digest: str, options: Any) -> Samples:
    """Samples of a `datasets.Dataset`, images still encoded until they are touched."""
    import datasets

    columns = dataset.column_names
    of_kind = [name for name in columns if isinstance(dataset.features[name], datasets.Image)]
    image = pick(columns, options.image_column, IMAGE_NAMES, "image", path) or next(iter(of_kind), None)
    text = pick(columns, options.text_column, TEXT_NAMES, "text", path)
    array = pick(columns, None, ARRAY_NAMES, "image", path)
    label = pick(columns, options.label_column, LABEL_NAMES, "label", path) if options.labels else None
    labels, listed = None if label is None else list(dataset[label]), None
    if label is not None and isinstance(dataset.features[label], datasets.ClassLabel):
        listed = tuple(dataset.features[label].names)
    of_text = text is not None and (image is None or options.text_column is not None)
    notes = unused(columns, {text if of_text else image or array}, label, path, options.labels)
    if of_text:
        samples = from_texts(list(dataset[text]), labels, path, options)
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
