"""Passes that begin in the middle of a network: what its first blocks gave is kept, a batch at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from delayer.network.chain import Chain
from delayer.network.handing import each_item
from delayer.network.hooks import answering, hooked
from delayer.observing.one_pass import device_of

LARGEST = 1 << 30
"""Bytes that one network's prefix may keep; batches that find no room run in full."""


class Prefix:
    """What the blocks before `start` gave, on the batches that were run so far.

    chain: its blocks before `start` must not change any more. `start` may grow; each pass brings what is kept of its batch up to
    it. A pass with a prefix does the same sums on the same numbers as a whole one, so its bits are the same.
    largest: bytes to keep.
    """

    def __init__(self, chain: Chain, largest: int = LARGEST):
        self.chain, self.start, self.largest = chain, 0, largest
        self._kept: dict[int, list[Any]] = {}
        """By a batch's first sample, what each block before gave: the last in full, of the others the shapes."""
        self._bytes: dict[int, int] = {}

    def knows(self, batch: Any) -> bool:
        """Whether a pass of this batch would begin in the middle."""
        return batch.start in self._kept

    @contextmanager
    def passing(self, batch: Any) -> Iterator[None]:
        """Inside, a pass of this batch, to block `start` or further, begins behind what is kept of it."""
        kept, seen, there = self._kept.get(batch.start, []), {}, device_of(self.chain.model)
        modules = [self.chain.module(index) for index in range(self.start)]

        def note(index: int) -> Callable:
            kept_as = Tensor.clone if index == self.start - 1 else _shape
            return lambda module, args, output: seen.__setitem__(index, each_item(output, kept_as))

        def give(output: Any) -> Callable:
            return lambda *args, **kwargs: each_item(output, lambda tensor: _fresh(tensor, there))

        noting = hooked(after=[(modules[index], note(index)) for index in range(len(kept), self.start)])
        with answering(modules[: len(kept)], [give(output) for output in kept[: self.start]]), noting:
            yield
        if seen and len(seen) == self.start - len(kept):
            self._keep(batch.start, [*(each_item(output, _shape) for output in kept), *(seen[index] for index in sorted(seen))])

    def forget(self) -> None:
        """Run in full from here on."""
        self.start, self._kept, self._bytes, self.largest = 0, {}, {}, 0

    def _keep(self, key: int, outputs: list[Any]) -> None:
        self._kept.pop(key, None)
        self._bytes[key] = 0
        sizes: list[int] = []
        each_item(outputs[-1], lambda tensor: sizes.append(tensor.nbytes))
        if sum(self._bytes.values()) + sum(sizes) <= self.largest:
            self._kept[key], self._bytes[key] = outputs, sum(sizes)


def _shape(tensor: Tensor) -> Tensor:
    """What takes no memory."""
    return tensor.to("meta")


def _fresh(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy, for a network that may write into it; any numbers where only the shape is known, as nothing reads them."""
    return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.clone()
