"""`npz:PATH`: numpy arrays x and y; `npz:PATH#test` reads x_test and y_test."""

import zipfile
import zlib

import torch
from torch import nn

from delayer.errors import DataError, NotFiniteError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, existing, fingerprint, sources
from delayer.tasks.sources._labels import Labels, labels_of


@sources.register("npz")
def npz(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Images from uint8 arrays [n, h, w, 3], [n, h, w] or [n, 3, h, w]; other arrays go to the network as they are.

    Raises DataError naming the arrays found, NotFiniteError naming the first bad sample.
    """
    import numpy as np

    file = existing(path)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            suffix = f"_{part}" if part else ""
            if f"x{suffix}" not in arrays.files:
                raise DataError(
                    f"{path} has no array x{suffix}; found {', '.join(arrays.files) or 'none'}. "
                    "Name the samples x and the labels y, or pick x_train and y_train by #train."
                )
            x = arrays[f"x{suffix}"]
            y = arrays[f"y{suffix}"] if f"y{suffix}" in arrays.files else None
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no .npz file of plain arrays ({error}). Write it again by numpy.savez.") from error
    return from_arrays(x, y if options.labels else None, path, options)


def from_arrays(x, y, path: str, options: TaskOptions = TaskOptions()) -> Samples:
    """Samples from an array of samples and one of labels (`labels_of` says which), or None."""
    import numpy as np

    if x.ndim == 0 or x.dtype.kind not in "biuf":
        raise DataError(f"x of {path} should be an array of numbers, one row a sample; found {x.dtype} {list(x.shape)}.")
    found = None
    if y is not None:
        y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        if y.ndim == 0 or y.dtype.kind not in "biufU" or len(y) != len(x):
            raise DataError(
                f"y of {path} should hold a label for each of {len(x)} samples; "
                f"found {y.dtype} {list(y.shape)}. Store class numbers from 0, or targets in numbers."
            )
        plain = y.ndim == 1 and y.dtype.kind in "iu"
        found = Labels(torch.as_tensor(y.astype(np.int64))) if plain else labels_of(y.tolist(), path, options)
    labels, names, notes = (None, None, []) if found is None else (found.values, found.names, found.notes)
    digest = fingerprint(
        str(x.dtype), str(x.shape), np.ascontiguousarray(x).data.tobytes(), b"" if labels is None else labels.numpy().tobytes()
    )
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        if x.ndim == 4 and x.shape[-1] not in (1, 3, 4):
            x = x.transpose(0, 2, 3, 1)
        if x.ndim == 4 and x.shape[-1] == 1:
            x = x[..., 0]
        return Samples("images", len(x), x.__getitem__, digest, labels, names, notes=notes)
    if x.dtype.kind == "f":
        x = x.astype(np.float32, copy=False)
        finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        if not finite.all():
            raise NotFiniteError(
                f"{(~finite).sum()} of {len(x)} samples of {path} hold NaN or infinity, first sample "
                f"{(~finite).argmax()}. Repair or remove them."
            )
    else:
        x = x.astype(np.int64)
    return Samples(
        "arrays",
        len(x),
        x.__getitem__,
        digest,
        labels,
        names,
        notes=[*notes, f"x of {path} ({x.dtype}) goes to the network as it is."],
    )
