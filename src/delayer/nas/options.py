"""What a search on real data may be told; the line under each field is its command-line help."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from delayer.nas.cells import CellSpace
from delayer.nas.depth_width import BLOCK, RESIDUAL, DepthWidthSpace, residual_block
from delayer.nas.space import Space, known, named
from delayer.nas.strategies import StrategyOptions
from delayer.study import Naming, Record
from delayer.tasks import TaskOptions

SPACE = ("search space", "factory(), or choose cells or depth_width")


class SpaceOptions(Record):
    """Which networks are candidates."""

    space: str = "cells"
    """cells (NAS-Bench-201), depth_width (stages of an own block), or package.module:factory of a space of your own."""
    width: int = Field(default=16, gt=0, le=65_536)
    """cells: channels of the first stage."""
    cells: int = Field(default=5, gt=0, le=1000)
    """cells: cells in each of the three stages."""
    block: str = RESIDUAL
    """depth_width: package.module:factory of a block, called as factory(in_width, width, stride)."""
    depths: tuple[int, ...] = (1, 2, 3)
    """depth_width: allowed blocks of a stage; may be repeated."""
    widths: tuple[int, ...] = (16, 32, 64)
    """depth_width: allowed channels of a stage; may be repeated."""
    stages: int = Field(default=3, gt=0, le=64)
    """depth_width: how many stages."""

    def open(self) -> Space:
        """The space itself. Raises NasError for a name of somebody's own that the user did not give in this process."""
        if self.space == "cells":
            return CellSpace(width=self.width, num_cells=self.cells)
        if self.space == "depth_width":
            block = residual_block if self.block == RESIDUAL else known(self.block, *BLOCK)
            return DepthWidthSpace(block=block, depths=self.depths, widths=self.widths, num_stages=self.stages)
        return known(self.space, *SPACE)()

    @property
    def own(self) -> str:
        """The function of the user's own that these options name, or ""."""
        if self.space == "depth_width":
            return "" if self.block == RESIDUAL else self.block
        return "" if self.space == "cells" else self.space

    def give(self) -> None:
        """Import what these options name, since the user typed them. Raises NasError when there is no such thing."""
        if self.own:
            named(self.own, *(BLOCK if self.space == "depth_width" else SPACE))


class ProxyOptions(Record):
    """How a candidate is trained shortly and scored."""

    epochs: int = Field(default=12, gt=0)
    """Epochs of the short training."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of the fit split that the short training sees."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Rate of SGD with Nesterov momentum at the start; it falls to 0 along a cosine."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of SGD, on all parameters."""
    augment: bool = True
    """Whether images are mirrored at random and shifted by up to an eighth of their size."""
    score_batches: int = Field(default=10, gt=0)
    """MSRS is the mean over so many batches of validation data at most."""
    score_batch_size: int = Field(default=256, ge=4)
    """Samples a batch of MSRS."""
    tau: float = 0.8
    """Similarity from which on MSRS counts two layers as the same."""
    beta: float = Field(default=100.0, gt=0)
    """How sharply MSRS counts."""


class NasTaskOptions(TaskOptions):
    """How data is read and split; as elsewhere, with the sizes and the batch that a search wants."""

    num_fit: int = Field(default=20_000, gt=0)
    """Samples to train candidates on at most."""
    num_validation: int = Field(default=5_000, gt=0)
    """Samples that candidates are compared on at most."""
    num_test: int = Field(default=10_000, gt=0)
    """Samples that the winner alone is reported on at most."""
    batch_size: int | None = Field(default=256, gt=0)
    """Samples a batch, in training too."""


class SearchOptions(Record):
    """How long a search goes on, and who works on it."""

    trials: int = Field(default=50, gt=0)
    """Candidates to train; more may be asked for later, and the search goes on."""
    workers: int = Field(default=1, gt=0)
    """Processes that share the search."""
    engine: Literal["processes", "ray"] = "processes"
    """processes (of this machine), or ray."""
    threads: int = Field(default=0, ge=0)
    """Threads of each process; 0 shares this machine's processors out. Rounding may differ with their number."""
    retries: int = Field(default=1, ge=0)
    """How often a candidate is tried again after the worker that trained it died."""
    final_epochs: int = Field(default=0, ge=0)
    """Epochs to train the winner for, from scratch; 0 keeps the weights of its short training."""
    latency_rounds: int = Field(default=7, gt=0)
    """Interleaved rounds in which all candidates are timed, after the search."""
    latency_batch: int = Field(default=16, gt=0)
    """Samples a batch when candidates are timed."""


class Setup(Naming):
    """search.json: all that decides what a search finds, besides how long it goes on."""

    data: str
    test: str | None
    strategy: str
    space: SpaceOptions
    proxy: ProxyOptions
    task: NasTaskOptions
    strategy_options: StrategyOptions
    seed: int
    device: str

    def _words(self) -> Iterator[tuple[str, str]]:
        yield "search strategy", self.strategy
