"""Accumulators over rows: mutable, mergeable across batches and processes, saved as plain tensors.

A statistic states `rows` (its row policy) and `points` (what it reads); `observe` feeds every one of them in one pass.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, Self

from torch import Tensor

from delayer.observing.rows import Rows
from delayer.observing.stats.geometry import Geometry
from delayer.observing.stats.hsic import Hsic
from delayer.observing.stats.moments import Moments


class Stat(Protocol):
    """Something that accumulates over rows."""

    rows: Rows

    @property
    def points(self) -> Sequence[int | str]:
        """What it reads."""
        raise NotImplementedError

    @property
    def num_rows(self) -> int:
        """Rows seen, at the point that saw most."""
        raise NotImplementedError

    def update(self, rows: Mapping[Any, Tensor], ids: Tensor) -> None:
        """Add a batch's rows [n, features] for each point (at least its own); ids [batch] number the samples.

        The rows are shared with other statistics and must stay as they are.
        """

    def merge(self, other: Self) -> None:
        """Add what another one has seen."""

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Give every process what all of them have seen.

        add_: sums a tensor over the processes, in place. gather: one object from each process, in the same order
        everywhere.
        """

    def state(self) -> dict[str, Tensor]:
        """Everything seen so far, as tensors that safetensors can hold."""
        raise NotImplementedError

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Replace everything seen so far."""


__all__ = ["Geometry", "Hsic", "Moments", "Stat"]


def __dir__() -> list[str]:
    return sorted(__all__)
