"""Passes over validation data that begin at a cut's first change: what the original's blocks gave is kept."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from delayer.network.calling import Inputs, call, each_tensor, example_of, output_of
from delayer.network.chain import Chain
from delayer.network.handing import each_item
from delayer.network.hooks import answering, hooked
from delayer.tasks.splits import Batch, Split

LARGEST = 1 << 30
"""Bytes that the kept answers may take; where all of them do not fit, those of every second, third, … block are kept."""


class Replay:
    """What the blocks of the original gave, batch by batch, for passes of networks that are the original up to some block.

    A pass that begins in the middle does the same sums on the same numbers as a whole one, so its bits are the same. That is
    tried on the first two samples, from several blocks on; where a network's blocks hand on more than they answer, or draw random
    numbers, nothing is kept and every pass is a whole one.
    chain: of the original. split: that will be passed. largest: bytes to keep.
    """

    def __init__(self, chain: Chain, split: Split, largest: int = LARGEST):
        self.chain, self.num_batches, self.largest = chain, len(split), largest
        self.stride = 1
        self.sound: bool | None = None
        self._kept: dict[tuple[int, int], list[Any]] = {}

    @contextmanager
    def recording(self, batch: Batch) -> Iterator[None]:
        """Inside, a pass of the original over a batch, of which the blocks' answers are kept."""
        if self.sound is False:
            yield
            return
        before = torch.get_rng_state()
        with self._noting() as seen:
            yield
        if self.sound is None:
            self._begin(batch, seen, drew=not torch.equal(before, torch.get_rng_state()))
        if self.sound:
            self._kept[_key(batch)] = [seen[index] for index in range(self.chain.num_blocks)]

    @contextmanager
    def _noting(self) -> Iterator[dict[int, Any]]:
        """Inside, what each block answers is noted by its number."""
        seen: dict[int, Any] = {}

        def note(index: int) -> Callable:
            kept_as = Tensor.clone if self._keeps(index) else _shape
            return lambda module, args, output: seen.__setitem__(index, each_item(output, kept_as))

        with hooked(after=[(self.chain.module(index), note(index)) for index in range(self.chain.num_blocks)]):
            yield seen

    @contextmanager
    def beginning(self, batch: Batch, start: int, chain: Chain | None = None) -> Iterator[None]:
        """Inside, a pass of a network that is the original before block `start` begins as late as what is kept allows.

        chain: that of a copy, where the network is one.
        """
        kept = self._kept.get(_key(batch), []) if self.sound else []
        with _beginning(chain or self.chain, kept, start):
            yield

    def _begin(self, batch: Batch, seen: dict[int, Any], *, drew: bool) -> None:
        """After the first batch: how much of it can be kept of every batch, and whether a pass that begins late is the same."""
        self.sound = not drew and len(seen) == self.chain.num_blocks
        if not self.sound:
            return
        sizes: list[int] = []
        for answer in seen.values():
            each_item(answer, lambda tensor: sizes.append(tensor.nbytes))
        self.stride = max(1, -(-sum(sizes) * self.num_batches // self.largest))
        for index in seen:
            if not self._keeps(index):
                seen[index] = each_item(seen[index], _shape)
        self.sound = self._tried(example_of(batch.inputs))

    def _tried(self, few: Inputs) -> bool:
        """Whether passes of a few samples that begin late are the same as a whole one."""
        num = self.chain.num_blocks
        with self._noting() as seen:
            whole = output_of(call(self.chain.model, few))
        kept = [seen[index] for index in range(num)]
        for start in {num, (num + 1) // 2, *(k for k in range(1, num) if self._apart(k))}:
            call(self.chain.model, each_tensor(_other, few))  # what a block left somewhere is of other samples now
            with _beginning(self.chain, kept, start):
                if not torch.equal(output_of(call(self.chain.model, few)), whole):
                    return False
        return True

    def _apart(self, index: int) -> bool:
        """Whether the network works between a block and the one before it, and may read that one's answer again."""
        return self.chain.blocks[index - 1].outlet != self.chain.blocks[index].inlet

    def _keeps(self, index: int) -> bool:
        """Whether a block's answers are kept in full."""
        last = self.chain.num_blocks - 1
        return (last - index) % self.stride == 0 or self._apart(index + 1)


def _beginning(chain: Chain, kept: Sequence[Any], start: int) -> AbstractContextManager[None]:
    """Inside, a pass begins behind the last block before `start` whose answer is kept in full."""
    first = next((k for k in range(min(start, len(kept)) - 1, -1, -1) if not _is_shape(kept[k])), -1)
    return answering([chain.module(index) for index in range(first + 1)], [_give(answer) for answer in kept[: first + 1]])


def _key(batch: Batch) -> tuple[int, int]:
    return batch.start, len(batch)


def _other(tensor: Tensor) -> Tensor:
    """Inputs of the same kind that are not the same."""
    return tensor.roll(1, 0) if len(tensor) > 1 else tensor.flip(-1)


def _shape(tensor: Tensor) -> Tensor:
    """What takes no memory."""
    return tensor.to("meta")


def _is_shape(answer: Any) -> bool:
    found: list[bool] = []
    each_item(answer, lambda tensor: found.append(tensor.is_meta))
    return any(found)


def _give(answer: Any) -> Callable:
    """A forward that answers as before; with any numbers where only the shape was kept, of which the next blocks make nothing."""

    def fresh(device: torch.device, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device) if tensor.is_meta else tensor.clone()

    def forward(*args: Any, **kwargs: Any) -> Any:
        device = next((x.device for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), torch.device("cpu"))
        return each_item(answer, lambda tensor: fresh(device, tensor))

    return forward
