"""Weights that lie in files: read where they are wanted, and let go of afterwards, so that they need not fit into memory.

A weight is a private mapping of its part of a safetensors file: the operating system reads pages as they are used, a copy of a
network maps the same file again, and what is changed is changed in memory alone, never in the file. `let_go` gives the pages
back; a large weight that was changed is first written to a scratch file of the system's temporary folder (TMPDIR), and lies there
from then on.
"""

import ctypes
import mmap
import os
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from delayer.errors import DelayerWarning

M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""
SCRATCH_BYTES = 1 << 18
"""A changed weight of fewer bytes stays in memory."""


@cache
def give_back_freed_memory_() -> None:
    """Have the C library hand back freed pieces of a MiB and more at once; glibc keeps those of up to 32 MiB for later."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 20)


class MappedFile:
    """A file, mapped privately: what is written into the mapping stays in memory.

    identity: what tells it from any other file, and from itself once it is written to.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        there = os.fstat(file.fileno())
        self.identity = there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0) if hasattr(mmap, "MAP_PRIVATE") else None
        how: dict[str, Any] = (
            {"access": mmap.ACCESS_COPY} if flags is None else {"flags": flags, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
        )
        self.map = mmap.mmap(file.fileno(), 0, **how)

    def __deepcopy__(self, memo: dict) -> "MappedFile":
        return MappedFile(self.file)

    def tensor(self, offset: int, dtype: torch.dtype, shape: Iterable[int]) -> Tensor:
        """What lies at an offset (bytes), without a copy."""
        shape = tuple(shape)
        num = torch.Size(shape).numel()
        if not num:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self.map, dtype=dtype, count=num, offset=offset).view(shape)

    def let_go(self, offset: int, size: int) -> None:
        """Give back the whole pages between an offset and so many bytes further; they are read from the file again if need be."""
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = (offset + size) // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start and hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED, start, stop - start)


class MappedWeight(nn.Parameter):
    """A weight that lies in a mapped file; it takes no gradient."""

    lies: MappedFile
    offset: int
    version: int
    """Of the tensor when it was mapped: another one now means that it was changed."""

    @staticmethod
    def at(file: MappedFile, offset: int, dtype: torch.dtype, shape: Iterable[int]) -> "MappedWeight":
        """The weight at an offset (bytes) of a file."""
        found = MappedWeight(file.tensor(offset, dtype, shape), requires_grad=False)
        return found._lying(file, offset)

    def _lying(self, file: MappedFile, offset: int) -> "MappedWeight":
        self.lies, self.offset, self.version = file, offset, self._version
        self.address = self.data_ptr()
        return self

    @property
    def is_mapped(self) -> bool:
        """Whether it still lies where it was mapped; one that was moved to another device, say, does not."""
        return self.data_ptr() == self.address

    @property
    def is_changed(self) -> bool:
        """Whether something was written into it since it was mapped."""
        return self._version != self.version

    def __deepcopy__(self, memo: dict) -> nn.Parameter:
        if id(self) in memo:
            return memo[id(self)]
        self.let_go()
        if not self.is_mapped or self.is_changed:  # and no scratch file would take it
            found = nn.Parameter(self.detach().clone(), requires_grad=False)
        else:
            if id(self.lies) not in memo:
                memo[id(self.lies)] = MappedFile(self.lies.file)
            found = MappedWeight.at(memo[id(self.lies)], self.offset, self.dtype, self.shape)
        memo[id(self)] = found
        return found

    def let_go(self) -> None:
        """Give its memory back. What was changed is kept: in a scratch file where it is large."""
        if not self.is_mapped:
            return
        if self.is_changed:
            self._to_scratch()
        if not self.is_changed:
            self.lies.let_go(self.offset, self.nbytes)

    def _to_scratch(self) -> None:
        if self.nbytes < SCRATCH_BYTES:
            return
        try:
            scratch = tempfile.TemporaryFile()
            scratch.write(bytes_of(self))
            scratch.flush()
            file = MappedFile(scratch)
        except OSError as error:
            warnings.warn(
                f"Changed weights stay in memory, since no file of {tempfile.gettempdir()} takes them ({error.strerror}). Name "
                "a folder with more room by TMPDIR.",
                DelayerWarning,
                stacklevel=2,
            )
            return
        left, offset = self.lies, self.offset
        self.data = file.tensor(0, self.dtype, self.shape)
        self._lying(file, 0)
        left.let_go(offset, self.nbytes)  # what was written into the private pages there is in the scratch file now


def bytes_of(tensor: Tensor) -> memoryview:
    """What a tensor holds, without a copy where it is contiguous and on the CPU."""
    found: Any = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return memoryview(found)


def is_mapped(model: Any) -> bool:
    """Whether a network's weights lie in files."""
    return isinstance(model, nn.Module) and any(isinstance(weight, MappedWeight) for weight in model.parameters())


def let_go(model: nn.Module) -> None:
    """Give back the memory of all weights of a network that lie in files."""
    for weight in model.parameters():
        if isinstance(weight, MappedWeight):
            weight.let_go()
