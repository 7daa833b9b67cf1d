"""What is known of a network's blocks, as plain records: spans and runs of them, and the facts of a family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from delayer.errors import SpanError
from delayer.network.handing import Form

AGAIN = "="
"""Stands for a block's own hidden state, where an item of its answer is that once more."""
UNSAID = "?"
"""Begins the place of an argument that was not there when the network was watched, so that nobody knows what becomes of it."""

Place = int | str
"""Where hidden states are seen: a point by its number, or a module by its path (its output)."""


@dataclass(frozen=True, order=True)
class Span:
    """Blocks start .. stop-1, half-open like a slice."""

    start: int
    stop: int

    def __post_init__(self):
        if not 0 <= self.start < self.stop:
            raise SpanError(f"Span {self.start}:{self.stop} is empty or negative. A span is START:STOP with STOP excluded.")

    @classmethod
    def parse(cls, text: str) -> "Span":
        """The span in "9:11" (blocks 9 and 10) or "9" (block 9)."""
        parts = text.split(":")
        if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
            raise SpanError(f"{text!r} is not a span. Write START:STOP with STOP excluded: 9:11 means blocks 9 and 10.")
        start = int(parts[0])
        return cls(start, int(parts[1]) if len(parts) == 2 else start + 1)

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def __len__(self) -> int:
        return self.stop - self.start

    def overlaps(self, other: "Span") -> bool:
        """Whether both hold a block."""
        return self.start < other.stop and other.start < self.stop


@dataclass(frozen=True)
class Block:
    """What one forward pass told about a block; plain data, saved with a compressed model."""

    path: str
    kind: str
    inlet: int
    outlet: int
    in_width: int
    out_width: int
    positions: int
    """Rows that one sample of the probed batch gives: tokens or pixels."""
    removable: bool
    """Its input and output have the same shape, and a stand-in can do all else that the network asks of it."""
    returns: int
    """0 where it answers with a tensor; else how many items its answer has."""
    form: Form = "tuple"
    """What an answer of several items is."""
    names: tuple[str, ...] = ()
    """The items' names; none where they are numbered, and in a tensor."""
    hidden: int = 0
    """Which of the items is the hidden state."""
    takes: str = ""
    """The place of the hidden state among its arguments (`handing`); "" for the first tensor, as in older files."""
    passes: tuple[str, ...] = ()
    """For each item the place of the argument that it hands on as it came, `AGAIN` for its own hidden state once more, ""
    for None, or `UNSAID` and the place of an argument that was None. Items that are not named here are None."""
    stays: str = ""
    """Why it has to stay, where its shape would let it go."""
    samples: int = 0
    """The axis of its hidden state along which the samples of a batch lie; the first may hold several rows of each."""

    @property
    def items(self) -> tuple[str, ...]:
        """The places of its answer's items."""
        return self.names or tuple(str(k) for k in range(self.returns))

    @property
    def gives(self) -> str:
        """The place of the hidden state in its answer; "" for the answer itself."""
        return self.items[self.hidden] if self.returns else ""


@dataclass(frozen=True)
class Segment:
    """A run of blocks start .. stop-1 whose points share width and feature axis."""

    start: int
    stop: int
    width: int
    points: tuple[int, ...]


@dataclass(frozen=True)
class Family:
    """What a model family looks like: a few facts, each in its own file under `families/`."""

    name: str
    classes: tuple[str, ...]
    """Fully qualified names of the classes, or of any class that they inherit from."""
    blocks: str
    """A regular expression for the whole path of a block; blocks are ordered as in the module tree."""
    axis: int | None
    """Where the features are: -1 for tokens, 1 for images; None to tell from the shapes."""
    rows: str
    """The row that this field reads for whole-sample scores: "first" (class token), "mean" or "last"."""
    shortens: bool = True
    """Blocks leave their lists; false where the parent may count them, so that pass-throughs stay in their places."""
    tau: float = 0.8
    """Similarity from which on two layers say the same, for MSRS; its authors take 0.7 for VGG."""
    example: Callable[[nn.Module], Any] | None = None
    """Builds inputs for one small forward pass; None asks the user for a batch."""
    recount_: Callable[[nn.Module, dict[str, list[int]]], None] | None = None
    """Mends indices and configuration; gets, for each container, the old positions that stayed."""
