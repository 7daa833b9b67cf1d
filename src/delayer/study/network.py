"""study.json: the original network, what was asked, and where numbers come from."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, model_validator

from delayer.study.plugins import Naming, words_in
from delayer.study.record import Count, Index, Record, Sealed, Seed


class BlockInfo(Record):
    """One block of the original network."""

    index: Index
    path: str
    kind: str
    params: Count
    macs: Count | None = None
    in_width: Count
    out_width: Count
    removable: bool
    """Whether its input and output have the same shape, so that a span may run through it."""


class ChainInfo(Record):
    """What a chain looks like, as plain data."""

    family: str
    blocks: tuple[BlockInfo, ...] = Field(min_length=1, max_length=100_000)
    points: tuple[str, ...]
    """A label for each point, in order."""
    segments: tuple[tuple[Index, Index], ...]
    """Half-open runs of blocks inside which spans may lie."""

    @model_validator(mode="after")
    def _agrees(self) -> "ChainInfo":
        num_blocks = len(self.blocks)
        if [block.index for block in self.blocks] != list(range(num_blocks)):
            raise ValueError(f"blocks are not numbered 0 to {num_blocks - 1} in their order")
        if not num_blocks < len(self.points) <= 2 * num_blocks:
            raise ValueError(f"{num_blocks} blocks have {len(self.points)} points")
        if any(not start < stop <= num_blocks for start, stop in self.segments) or any(
            one[1] > two[0] for one, two in pairwise(self.segments)
        ):
            raise ValueError(f"segments {self.segments} are no runs of {num_blocks} blocks in their order")
        return self


class Provenance(Record):
    """Where a number comes from."""

    delayer: str
    versions: dict[str, str]
    machine: str
    device: str
    threads: Count
    seed: Seed
    model_hash: str
    data_hash: str
    created: str
    precision: Literal["float32", "bfloat16"] | None = None
    """What passes over data multiplied in; None in studies that are older than the choice."""


class Asked(Record):
    """What the user asked for."""

    model: str
    data: tuple[str, ...]
    options: dict[str, Any]
    """Every option as given or by default, such as remove, method, seed, device."""


class StudyInfo(Sealed, Naming):
    """study.json: what was asked, of which network, and where the numbers come from."""

    format: Literal[1] = 1
    asked: Asked
    chain: ChainInfo
    params: Count
    macs: Count | None
    provenance: Provenance

    def _words(self) -> Iterator[tuple[str, str]]:
        yield "family", self.chain.family
        yield from (("data source", name.partition(":")[0]) for name in self.asked.data)
        yield from (("", word) for word in words_in(self.asked.options))
