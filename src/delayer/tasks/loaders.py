"""Batches from Python: data loaders, lists of batches and other iterables, as splits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from delayer.errors import DataError
from delayer.network.calling import each_tensor
from delayer.tasks.kinds import token_ids
from delayer.tasks.options import Kind
from delayer.tasks.splits import Batch, Split

LABEL_KEYS = ("labels", "label", "targets", "target")
"""What people call the labels in a dict of tensors."""


class LoaderSplit(Split):
    """A split over batches from Python: x, (x, y), or a dict of tensors with an entry for labels (LABEL_KEYS) or without.

    y: class numbers [n], or rows with a single 1 among zeros (one-hot); for regression targets in numbers, one for each output.
    kind None: either. notes: what was assumed of them.

    A DataLoader's order is drawn once, so that each pass gives the same batches; its workers go on reading
    ahead. Random access needs a DataLoader over a data set with numbers, or a sequence; others are read from
    the start. Raises DataError for an iterator that can be read only once, and for batches of another form.
    """

    def __init__(
        self,
        name: str,
        batches: Iterable[Any],
        kind: Kind | None = "image-classification",
        limit: int | None = None,
        classes: tuple[int, ...] | None = None,
    ):
        if isinstance(batches, Iterator):
            raise DataError(
                f"The {name} batches are a {type(batches).__name__}, which can be read only once. "
                "Give a DataLoader, a list of batches, or an object whose __iter__ starts afresh."
            )
        if isinstance(batches, DataLoader) and not isinstance(batches.batch_sampler, list):
            batches = _settled(batches)
        self.name, self.classes = name, classes
        self.stated: Kind | None = kind
        self.kind = kind or "image-classification"
        self.batches, self.limit, self._starts = batches, limit, None
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Remember, once, what was assumed of the labels."""
        if text not in self.notes:
            self.notes.append(text)

    def read_as_(self, kind: Kind) -> None:
        """Read labels as this kind of task does, from now on."""
        self.kind = self.stated = kind

    def first(self, num_samples: int) -> "LoaderSplit":
        """The same with its first samples only."""
        return LoaderSplit(self.name, self.batches, self.stated, min(num_samples, self.limit or num_samples), self.classes)

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for raw in self.batches:
            batch = _shortened(_batch(raw, start, self), self.limit)
            start += len(batch)
            yield batch
            if start == self.limit:
                return

    def read(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """Those samples in batches, in the order in which the loader gives them."""
        numbers = list(numbers)
        return iter(self) if numbers == list(range(len(self))) else map(self.batch, numbers)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def num_samples(self) -> int:
        """Samples that the loader gives."""
        return self.starts[-1]

    @property
    def starts(self) -> list[int]:
        """Number of each batch's first sample, and of all; counted in one pass where nothing states them."""
        if self._starts is None:
            sampler = self.batches.batch_sampler if isinstance(self.batches, DataLoader) else None
            sizes = [len(rows) for rows in sampler] if isinstance(sampler, list) else [len(b) for b in self]
            starts = [0]
            for size in sizes:
                if self.limit is None or starts[-1] < self.limit:
                    starts.append(min(starts[-1] + size, self.limit or starts[-1] + size))
            self._starts = starts
        return self._starts

    def batch(self, i: int) -> Batch:
        """One batch, from the end where i is negative."""
        number = range(len(self))[i]
        loader = self.batches if isinstance(self.batches, DataLoader) else None
        if loader is not None and isinstance(drawn := loader.batch_sampler, list):
            raw = loader.collate_fn([loader.dataset[row] for row in drawn[number]])
        elif isinstance(self.batches, Sequence):
            raw = self.batches[number]
        else:
            return next(batch for k, batch in enumerate(self) if k == number)
        return _shortened(_batch(raw, self.starts[number], self), self.limit)


def _settled(loader: DataLoader) -> DataLoader:
    """A loader that gives the same batches in each pass, in the order that its sampler draws once."""
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return loader
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        order = [list(rows) for rows in loader.batch_sampler]
    return DataLoader(
        loader.dataset,
        batch_sampler=order,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator(),  # each pass draws seeds for its workers, by default from the global generator
    )


def _batch(raw: Any, start: int, split: LoaderSplit) -> Batch:
    name = split.name
    inputs, labels = raw if isinstance(raw, tuple | list) and len(raw) == 2 else (raw, None)
    if isinstance(inputs, tuple | list) and len(inputs) == 1:
        inputs = inputs[0]
    try:
        if isinstance(inputs, Mapping):
            inputs = {key: torch.as_tensor(value) for key, value in inputs.items()}
            found = [key for key in LABEL_KEYS if key in inputs]
            if len(found) > 1 or (found and labels is not None):
                raise DataError(
                    f"A batch of the {name} split has labels in {' and '.join([*found, *['(x, y)'] * (labels is not None)])}. "
                    "Leave all but one out."
                )
            labels = inputs.pop(found[0]) if found else labels
        else:
            inputs = torch.as_tensor(inputs)
        labels = None if labels is None else torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"A batch of the {name} split is a {type(raw).__name__} that does not become tensors ({error}). "
            'Give x, (x, y), or a dict of tensors with an entry "labels" or without.'
        ) from error
    if isinstance(inputs, Mapping) and not inputs:
        raise DataError(f"A batch of the {name} split is a dict of labels alone. Give the network's inputs by name as well.")
    written = inputs.get("decoder_input_ids") if isinstance(inputs, Mapping) else None
    ids = token_ids(inputs) if written is None else written
    if labels is None or (ids is not None and labels.shape == ids.shape):
        return Batch(inputs, None, start)  # a label for each token is the next token, which is known anyway
    return Batch(inputs, _labels(labels, split), start)


def _labels(labels: Tensor, split: LoaderSplit) -> Tensor | None:
    """Labels as the split's kind of task reads them. Raises DataError for what is neither class numbers nor targets."""
    found = f"found {labels.dtype} {list(labels.shape)}"
    if labels.ndim == 0:
        raise DataError(f"Labels of the {split.name} split should be one a sample; {found}. Give a label for each sample.")
    if not torch.isfinite(labels).all():
        raise DataError(f"A label of the {split.name} split is NaN or infinity. Correct or remove these samples.")
    labels = labels.flatten() if labels.shape == (len(labels), 1) else labels
    numbers = labels.is_floating_point() and (labels.ndim > 1 or not torch.equal(labels, labels.round()))
    if split.stated != "regression" and labels.ndim == 2 and labels.shape[1] > 1 and ((labels == 0) | (labels == 1)).all():
        if (labels.sum(1) != 1).any():
            raise DataError(
                f"Labels of the {split.name} split are rows of zeros and ones, which name several classes at once (multi-label); "
                f'{found}. Give class numbers, x alone to compare with the original, or kind="regression".'
            )
        split.note(f"Labels of the {split.name} split are rows with one 1 among zeros (one-hot): its place is the class number.")
        return labels.long().argmax(1)
    if split.kind == "regression" or (split.stated is None and numbers):
        if split.stated is None and numbers:
            split.note(f"Labels of the {split.name} split are no whole numbers, so they are targets of regression.")
        return labels.float()
    if split.kind in ("embedding", "causal-lm", "seq2seq"):
        return labels
    if labels.ndim == 1 and not numbers:
        return labels.long()  # 3.0 is class 3
    raise DataError(
        f"Labels of the {split.name} split should be one class number a sample; {found}. Give class numbers from 0, x alone, or "
        'say that they are targets by kind="regression".'
    )


def _shortened(batch: Batch, limit: int | None) -> Batch:
    if limit is None or batch.start + len(batch) <= limit:
        return batch
    keep = slice(limit - batch.start)
    labels = None if batch.labels is None else batch.labels[keep]
    return Batch(each_tensor(lambda x: x[keep], batch.inputs), labels, batch.start)
