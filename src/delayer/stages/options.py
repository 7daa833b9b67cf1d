"""What a user may ask for, stage by stage; the line under each field is its command-line help."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from delayer.store.by_block import ByBlock
from delayer.store.weights import Stored
from delayer.study import Record


class LoadOptions(Record):
    """Which network, and where it runs."""

    weights: str | None = None
    """Safetensors file, index of several, or folder of either, to load into the network, strictly."""
    blocks: str | None = None
    """Regular expression for the paths of the blocks, for a network that delayer does not know."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, mps."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """What passes over data multiply in; weights and sums stay as they are. auto: bfloat16 for a network that writes text where
    this machine multiplies it faster."""
    by_block: ByBlock = "auto"
    """Leave the weights of a Hugging Face network in their files and read one layer's at a time: yes, no, or auto, which does so
    where three copies in float32 do not fit into memory."""

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


class SaveOptions(Record):
    """How the smaller network is saved."""

    dtype: Stored = "keep"
    """What floating-point weights are saved in: keep (as the original is stored), float32, float16 or bfloat16."""


class CheckOptions(Record):
    """How the result is proven and measured."""

    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 16), min_length=1)
    """Batch sizes for latency; may be repeated."""
    seconds: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Seconds for each latency comparison."""
    readout: Literal["head", "linear"] = "head"
    """What grades are read from: head (the network's own) or linear (a new linear head on frozen features)."""
    onnx: bool = True
    """Export to ONNX, check against torch, and compare latency on ONNX Runtime where it is installed."""
    lm_eval: str = ""
    """Tasks of lm-evaluation-harness, names or task files, joined by commas: both networks are graded on them."""
    lm_eval_limit: Annotated[int, Field(ge=1)] | None = None
    """So many samples of each of these tasks at most."""
