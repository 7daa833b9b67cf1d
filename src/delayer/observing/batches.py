"""The batches that a process reads of a data set, one after another, and what becomes of those too large for the memory."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch

from delayer.errors import DataError, MemoryLimitError
from delayer.observing.processes import shard


@contextmanager
def within_memory(batch: Any) -> Iterator[None]:
    """Inside, memory that runs out is an error that names the size of batch that would do. Raises MemoryLimitError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # the CPU's allocator raises a plain RuntimeError
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise MemoryLimitError(
            f"Watching batches of {len(batch)} does not fit into memory. "
            f"Use a batch size of {max(1, len(batch) // 2)}, a smaller share of rows or a smaller memory bound."
        ) from error


@runtime_checkable
class ReadsAhead(Protocol):
    """Batches that prepare the next ones while one is used, as `Split` does."""

    def read(self, numbers: Iterable[int]) -> Iterable[Any]:
        """The batches of these numbers, in order."""
        raise NotImplementedError


def reading_own(batches: Sequence[Any]) -> tuple[range, Iterable[Any]]:
    """The numbers of this process's batches, and the batches, read ahead where the sequence can (`Split.read`).

    Raises DataError for what is no sequence of batches, and for an empty one.
    """
    if hasattr(batches, "splits"):
        raise DataError("A task has several splits, and one is to be watched. Give one, such as task.batches('fit').")
    if isinstance(batches, list | tuple) and batches and not hasattr(batches[0], "start"):
        raise DataError(
            f"Batches are those of a task, with their samples' numbers, and no {type(batches[0]).__name__}. "
            "Make a task of them: delayer.task_of(batches).batches('fit')."
        )
    if not len(batches):
        raise DataError("The data set is empty, so there is nothing to watch. Give at least one batch.")
    mine = shard(len(batches))
    return mine, batches.read(mine) if isinstance(batches, ReadsAhead) else (batches[number] for number in mine)
