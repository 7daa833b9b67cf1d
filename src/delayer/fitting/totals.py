"""What the original's blocks gave, kept for fits that are made again and again on the same batches."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from delayer.network.inside_block import Run, Tail

LARGEST = 1 << 29
"""Bytes that are kept at most; what finds no room is worked out anew."""


class Totals:
    """The totals of one network's blocks before their last activation, on the batches of one split.

    Candidates of a search are each fitted to the same targets, which this spares them: the original is run once for all.
    """

    def __init__(self, largest: int = LARGEST):
        self.largest = largest
        self._kept: dict[tuple[int, int, int], tuple[Tensor, Tail | None]] = {}
        self._bytes = 0

    def of(self, block: int, batch: Any, run: Callable[[], Run]) -> tuple[Tensor, Tail | None]:
        """The total behind a block on a batch, and what the block ends in; run: the block's run, where it is not known yet."""
        key = block, batch.start, len(batch)
        if key not in self._kept:
            first = run()
            found = first.ending[1], first.tail
            if self._bytes + found[0].nbytes > self.largest:
                return found
            self._bytes += found[0].nbytes
            self._kept[key] = found
        return self._kept[key]
