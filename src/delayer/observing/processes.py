"""Several processes that each watch a share of the data, as `accelerate launch` or torchrun start them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from delayer.errors import ProcessError

PATIENCE_S = 600.0
"""Seconds that a process waits for the others, who do the same work at the same time; DELAYER_PATIENCE says otherwise."""


def join_processes() -> tuple[int, int]:
    """This process's number and how many there are; joins the others when a launcher started several.

    torchrun and `accelerate launch --multi_gpu` say who is who in RANK, WORLD_SIZE and LOCAL_RANK, also on machines
    with fewer GPUs than processes, where all share what there is. `accelerate launch --cpu` starts several through
    mpirun alone, whose variables accelerate reads.
    Raises ProcessError where the others do not come, here and wherever they are waited for later.
    """
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    if distributed.is_available() and not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            own_gpu = not on_cpu and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            if own_gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
            with _waiting():
                distributed.init_process_group("nccl" if own_gpu else "gloo", timeout=_patience())
        elif on_cpu:
            from accelerate import PartialState

            with _waiting():
                PartialState(cpu=True, timeout=_patience())
    return (distributed.get_rank(), distributed.get_world_size()) if num_processes() > 1 else (0, 1)


def _patience() -> timedelta:
    try:
        return timedelta(seconds=float(os.environ.get("DELAYER_PATIENCE", PATIENCE_S)))
    except (ValueError, OverflowError) as error:
        raise ProcessError(
            f"DELAYER_PATIENCE={os.environ['DELAYER_PATIENCE']} is no number of seconds. "
            f"Give one such as {PATIENCE_S:g}, or unset it."
        ) from error


@contextmanager
def _waiting() -> Iterator[None]:
    """Around whatever waits for the other processes."""
    try:
        yield
    except RuntimeError as error:  # torch's own errors of connections and of time that ran out are RuntimeErrors
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProcessError(
            f"Another of the {os.environ.get('WORLD_SIZE', 'several')} processes ended, or gave no answer for "
            f"{_patience().total_seconds():g} seconds ({first[:200]}). See what it said, and give the same command again: "
            "stages that are finished are kept."
        ) from error


def num_processes() -> int:
    """How many processes work together; 1 where nothing was joined."""
    joined = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if joined else 1


def shard(num_batches: int) -> range:
    """The contiguous batches that this process takes; all of them where it is alone."""
    if num_processes() == 1:
        return range(num_batches)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    return range(rank * num_batches // world, (rank + 1) * num_batches // world)


def add_(tensor: Tensor) -> None:
    """Sum a tensor over the processes, in place."""
    there = tensor.cuda() if distributed.get_backend() == "nccl" else tensor.cpu()
    with _waiting():
        distributed.all_reduce(there)
    if there is not tensor:
        tensor.copy_(there)


def gather(value: Any) -> list[Any]:
    """One object from each process, in their order, on every process."""
    values = [None] * distributed.get_world_size()
    with _waiting():
        distributed.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The first process's value on every process, so that all go the same way where clocks or rounding differ."""
    return gather(value)[0] if num_processes() > 1 else value


def own_folder(folder: Path) -> Path:
    """The folder itself for the first process; for each other one a copy of its own, which nobody reads later."""
    if num_processes() == 1:
        return folder
    mine = folder
    if distributed.get_rank() > 0:
        mine = Path(tempfile.mkdtemp(prefix="delayer-")) / folder.name
        if folder.exists():
            shutil.copytree(folder, mine, ignore=shutil.ignore_patterns(".lock"))
    gather(None)  # nobody writes before all have copied
    return mine
