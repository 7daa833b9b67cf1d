"""results.json: what came out."""

from typing import Annotated

from pydantic import Field

from delayer.study.cuts import EditInfo
from delayer.study.grade import Grade
from delayer.study.network import Provenance
from delayer.study.record import Count, Index, Measurement, Record, Size

Positive = Annotated[float, Field(gt=0)]


class LatencyInfo(Record):
    """A paired, interleaved comparison of the original with the cut network."""

    engine: str
    batch_size: Size
    threads: Count
    device: str
    dtype: str
    num_rounds: Count
    original_ms: Positive
    original_quartiles_ms: tuple[Positive, Positive]
    cut_ms: Positive
    cut_quartiles_ms: tuple[Positive, Positive]
    speedup: Positive
    """Original over cut, the median over pairs."""
    speedup_interval: tuple[Positive, Positive]
    """95 % interval by bootstrap over pairs."""


class Measures(Record):
    """What one network costs and is worth."""

    params: Count
    size_bytes: Count
    macs: Count | None
    peak_memory_mib: float | None
    num_blocks: Index
    grade: Grade


class Proof(Record):
    """What a fresh process found when it loaded the artefact."""

    max_abs_difference: Measurement
    max_abs_output: Measurement
    num_inputs: Count
    num_written: Count = 0
    """Tokens that both generate alike, where the network generates."""
    loader: str
    """'delayer.load', or the ordinary loader's name where the result is an ordinary checkpoint."""
    passed: bool
    note: str = ""


class OnnxInfo(Record):
    """How the exported graph compares with torch."""

    path: str
    size_bytes: Count
    max_abs_difference: Measurement
    batch_sizes: tuple[Size, ...]
    dynamic: bool
    note: str = ""


class HarnessInfo(Record):
    """One metric of a task of lm-evaluation-harness, for the original and the cut network."""

    task: str
    metric: str
    num_samples: Count
    higher_is_better: bool | None
    original: Measurement
    cut: Measurement
    difference_interval: tuple[float, float] | None
    """Cut less original: 95 % interval by bootstrap over samples, where the metric is a mean over them."""


class Results(Record):
    """results.json: what came out."""

    headline: str
    original: Measures
    cut: Measures
    edits: tuple[EditInfo, ...]
    latency: tuple[LatencyInfo, ...] = ()
    tasks: tuple[HarnessInfo, ...] = ()
    proofs: tuple[Proof, ...] = ()
    onnx: OnnxInfo | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was assumed on the way, such as how images were normalised."""
    provenance: Provenance
