"""Which samples go where, and how they come in batches."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import overload

import torch
from torch import Tensor

from delayer.errors import DataError
from delayer.network.calling import Inputs, each_tensor, first_tensor
from delayer.tasks.options import Kind, TaskOptions

NUM_READERS = min(4, os.cpu_count() or 1)
"""Threads that prepare batches while one is used."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network is called with, and what is known about it.

    inputs: called as `model(x)` for a tensor and `model(**inputs)` for a dict.
    labels: the head's class indices [n]; None without labels and for language models, whose targets are the
    next tokens under the mask.
    start: number of the first sample within the split.
    """

    inputs: Inputs
    labels: Tensor | None
    start: int

    @property
    def mask(self) -> Tensor | None:
        """[n, positions], 1 where a token is real; None where nothing is padded."""
        return self.inputs.get("attention_mask") if isinstance(self.inputs, Mapping) else None

    @property
    def masks(self) -> tuple[Tensor | None, Tensor | None]:
        """The mask of what is read, and of what a decoder writes."""
        return self.mask, self.inputs.get("decoder_attention_mask") if isinstance(self.inputs, Mapping) else None

    def mask_for(self, num_positions: int) -> Tensor | None:
        """The mask of the network or of its decoder that has so many positions; None where neither has."""
        return next((mask for mask in self.masks if mask is not None and mask.shape[1] == num_positions), None)

    def __len__(self) -> int:
        return len(first_tensor(self.inputs))

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(each_tensor(lambda x: x.to(device), self.inputs), labels, self.start)


def shortened(split: "Split", num_samples: int, num_tokens: int) -> "Split":
    """A split cut short to its first samples, and of texts to about so many tokens of them, one sample at least."""
    ids = split[0].inputs.get("input_ids") if isinstance(split[0].inputs, Mapping) else None
    if ids is None or split.kind not in ("causal-lm", "seq2seq"):
        return split.first(num_samples)
    return split.first(max(1, min(num_samples, num_tokens // ids.shape[1])))


def rebatched(split: "Split", num_tokens: int) -> "Split":
    """The same samples in batches of about so many tokens of text, one sample at least; other splits as they are."""
    ids = split[0].inputs.get("input_ids") if isinstance(split[0].inputs, Mapping) else None
    if ids is None or type(split) is not Split:
        return split
    return Split(split.name, split.kind, split.num_samples, max(1, num_tokens // ids.shape[1]), split.load, split.classes)


@cache
def _readers() -> ThreadPoolExecutor:
    """The threads that prepare batches, made once a process; what they run reads no split itself, so none waits for another."""
    return ThreadPoolExecutor(NUM_READERS, thread_name_prefix="delayer-reader")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_readers.cache_clear)  # threads do not come along


class Split(Sequence[Batch]):
    """Batches of one split, made when they are asked for, the same ones every time and in any order.

    name: "fit", "validation" or "test".
    load: gives the inputs and labels of a range of samples; called from several threads.
    kind: what the network does with them. classes: the head's outputs among which it chooses; None for all.
    """

    kind: Kind

    def __init__(
        self,
        name: str,
        kind: Kind,
        num_samples: int,
        batch_size: int,
        load: Callable[[range], tuple[Inputs, Tensor | None]],
        classes: tuple[int, ...] | None = None,
    ):
        self.name, self.kind, self.classes = name, kind, classes
        self.num_samples, self.batch_size, self.load = num_samples, batch_size, load

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    @overload
    def __getitem__(self, i: int) -> Batch: ...

    @overload
    def __getitem__(self, i: slice) -> list[Batch]: ...

    def __getitem__(self, i: int | slice) -> Batch | list[Batch]:
        return list(self.read(range(len(self))[i])) if isinstance(i, slice) else self.batch(i)

    def batch(self, i: int) -> Batch:
        """One batch, from the end where i is negative."""
        number = range(len(self))[i]  # counts negative numbers from the end, refuses what lies outside
        start = number * self.batch_size
        return Batch(*self.load(range(start, min(start + self.batch_size, self.num_samples))), start)

    def __iter__(self) -> Iterator[Batch]:
        return self.read(range(len(self)))

    def first(self, num_samples: int) -> "Split":
        """The same, cut short to the first so many samples."""
        num_samples = min(num_samples, self.num_samples)
        return Split(self.name, self.kind, num_samples, self.batch_size, self.load, self.classes)

    def read(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """The batches of these numbers in order, the next ones prepared in threads while one is used."""
        ahead: deque[Future[Batch]] = deque()
        try:
            for number in numbers:
                ahead.append(_readers().submit(self.batch, number))
                if len(ahead) > NUM_READERS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for left in ahead:
                left.cancel()


def split_sizes(num_samples: int, options: TaskOptions, parts: Sequence[str]) -> dict[str, int]:
    """How many samples each part gets: its `num_<part>`, or by shares 2 : 1 : 1 what a small data set has.

    What a part leaves because it wants no more goes to the others in the same shares.
    Raises DataError when there are fewer samples than parts.
    """
    if num_samples < len(parts):
        raise DataError(
            f"{len(parts)} disjoint parts ({', '.join(parts)}) need at least {len(parts)} samples; "
            f"found {num_samples}. Give more data."
        )
    wanted = {part: getattr(options, f"num_{part}") for part in parts}
    shares = {part: 2 if part == "fit" else 1 for part in parts}
    sizes: dict[str, int] = {}
    while len(sizes) < len(parts):
        left = num_samples - sum(sizes.values())
        still = [part for part in parts if part not in sizes]
        exact = {part: left * shares[part] / sum(shares[p] for p in still) for part in still}
        content = {part: wanted[part] for part in still if wanted[part] <= exact[part]}
        sizes |= content or _rounded(exact, left)
    return {part: sizes[part] for part in parts}


def split_rows(num_samples: int, labels: Tensor | None, sizes: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Disjoint rows for each part, in random order, decided by the seed alone.

    Stratified (each class as frequent in each part as in what was left for it, up to rounding) where every
    class has a sample for each part, else a plain shuffle.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(num_samples, generator=generator)
    if labels is None or min(labels.unique(return_counts=True)[1].tolist()) < len(sizes):
        ends = torch.tensor(list(sizes.values())).cumsum(0).tolist()
        return {part: order[end - size : end].tolist() for (part, size), end in zip(sizes.items(), ends, strict=True)}
    drawn = labels[order]
    left = {label: order[drawn == label].tolist() for label in drawn.unique().tolist()}
    parts = {}
    for part, size in sizes.items():
        total = sum(map(len, left.values()))
        # Classes come in a random order, so that rounding favours none of them.
        names = [list(left)[k] for k in torch.randperm(len(left), generator=generator)]
        take = _rounded({name: size * len(left[name]) / total for name in names}, size)
        rows = [row for name in names for row in left[name][: take[name]]]
        left = {name: rest[take[name] :] for name, rest in left.items()}
        parts[part] = [rows[k] for k in torch.randperm(len(rows), generator=generator)]
    return parts


def _rounded(exact: Mapping, total: int) -> dict:
    """Whole numbers with this total, each within one of the exact one, by largest remainders."""
    whole = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole
