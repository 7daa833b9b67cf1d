"""What a user may ask for, stage by stage; the line under each field is its command-line help."""

import re

from pydantic import Field, field_validator

from delayer.study import Record


class LoadOptions(Record):
    """Which network, and where it runs."""

    weights: str | None = None
    """Safetensors file to load into the network, strictly."""
    blocks: str | None = None
    """Regular expression for the paths of the blocks, for a network that delayer does not know."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, mps."""

    @field_validator("blocks")
    @classmethod
    def _an_expression(cls, blocks: str | None) -> str | None:
        """One that is none is refused, and one that repeats what repeats, which may take for ever on a long path."""
        if blocks is not None:
            try:
                re.compile(blocks)
            except re.error as error:
                raise ValueError(f"it is no regular expression ({error})") from error
            if len(blocks) > 1000 or re.search(r"[+*}][^()]*\)[+*{]", blocks):
                raise ValueError(r"a group that repeats is repeated, which may never end; write such as layers\.\d+")
        return blocks


class ScanOptions(Record):
    """How spans are judged before anything is cut."""

    operators: str = "drop,diagonal,low_rank,affine"
    """Operators to judge on every span, separated by commas."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the tokens or pixels that maps are fitted and judged on during the scan."""
    memory: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Memory that statistics may take, GiB; decides between one full pass and two lighter ones."""


class PlanOptions(Record):
    """What to cut."""

    remove: str | None = None
    """What to remove: blocks=3, params=25%, macs=25% or latency=20% (the share removed)."""
    max_drop: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Cut as deep as the validation grade falls by at most so many points of percent (perplexity: percent of the original's)."""
    span: tuple[str, ...] = ()
    """A span by hand, START:STOP with STOP excluded; may be repeated."""
    method: str = "ours"
    """ours (searched and measured), rba (linear maps, no bias) or redtest (layers dropped), both as published."""
    operator: str | None = None
    """Operator for spans by hand: affine, linear, diagonal, low_rank, conv or drop; by default chosen on held-out data."""
    kernel: int | None = None
    """Width of a convolution given by hand with --operator conv: 1, 3 (by default) or 5."""
    rank: int | None = None
    """Rank of a low_rank update given by hand."""
    refit: str = "best"
    """Maps are fitted on the original stream (independent), the cut network's (sequential), or as validation likes best."""
    repair: str = "none"
    """Closed-form repair of the blocks that stay: none, resolve (last layers solved anew), norms (batch norms counted
    anew) or best; left out where validation does not like it."""
    repair_samples: int = Field(default=256, gt=0)
    """Fit samples of the quick repair after which each cut of a search is judged, with --repair resolve or best."""
    samples: int = Field(default=128, gt=0)
    """Validation samples that each cut is judged on during the search; the best few are judged on all."""
    effort: int = Field(default=24, ge=0)
    """How many sets of cuts the real network may judge, besides single blocks."""


class CheckOptions(Record):
    """How the result is proven and measured."""

    batch_sizes: tuple[int, ...] = (1, 16)
    """Batch sizes for latency; may be repeated."""
    seconds: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Seconds for each latency comparison."""
    readout: str = "head"
    """What grades are read from: head (the network's own) or linear (a new linear head on frozen features)."""
    onnx: bool = True
    """Export to ONNX, check against torch, and compare latency on ONNX Runtime where it is installed."""
