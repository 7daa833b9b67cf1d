"""study.json: the original network, what was asked, and where numbers come from."""

from typing import Any, Literal

from delayer.study.record import Record


class BlockInfo(Record):
    """One block of the original network."""

    index: int
    path: str
    kind: str
    params: int
    macs: int | None = None
    in_width: int
    out_width: int
    removable: bool
    """Whether its input and output have the same shape, so that a span may run through it."""


class ChainInfo(Record):
    """What a chain looks like, as plain data."""

    family: str
    blocks: tuple[BlockInfo, ...]
    points: tuple[str, ...]
    """A label for each point, in order."""
    segments: tuple[tuple[int, int], ...]
    """Half-open runs of blocks inside which spans may lie."""


class Provenance(Record):
    """Where a number comes from."""

    delayer: str
    versions: dict[str, str]
    machine: str
    device: str
    threads: int
    seed: int
    model_hash: str
    data_hash: str
    created: str


class Asked(Record):
    """What the user asked for."""

    model: str
    data: tuple[str, ...]
    options: dict[str, Any]
    """Every option as given or by default, such as remove, method, seed, device."""


class StudyInfo(Record):
    """study.json: what was asked, of which network, and where the numbers come from."""

    format: Literal[1] = 1
    asked: Asked
    chain: ChainInfo
    params: int
    macs: int | None
    provenance: Provenance
