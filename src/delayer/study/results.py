"""results.json: what came out."""

from delayer.study.cuts import EditInfo
from delayer.study.grade import Grade
from delayer.study.network import Provenance
from delayer.study.record import Record


class LatencyInfo(Record):
    """A paired, interleaved comparison of the original with the cut network."""

    engine: str
    batch_size: int
    threads: int
    device: str
    dtype: str
    num_rounds: int
    original_ms: float
    original_quartiles_ms: tuple[float, float]
    cut_ms: float
    cut_quartiles_ms: tuple[float, float]
    speedup: float
    """Original over cut, the median over pairs."""
    speedup_interval: tuple[float, float]
    """95 % interval by bootstrap over pairs."""


class Measures(Record):
    """What one network costs and is worth."""

    params: int
    size_bytes: int
    macs: int | None
    peak_memory_mib: float | None
    num_blocks: int
    grade: Grade


class Proof(Record):
    """What a fresh process found when it loaded the artefact."""

    max_abs_difference: float
    max_abs_output: float
    num_inputs: int
    loader: str
    """'delayer.load', or the ordinary loader's name where the result is an ordinary checkpoint."""
    passed: bool
    note: str = ""


class OnnxInfo(Record):
    """How the exported graph compares with torch."""

    path: str
    size_bytes: int
    max_abs_difference: float
    batch_sizes: tuple[int, ...]
    dynamic: bool
    note: str = ""


class Results(Record):
    """results.json: what came out."""

    headline: str
    original: Measures
    cut: Measures
    edits: tuple[EditInfo, ...]
    latency: tuple[LatencyInfo, ...] = ()
    proofs: tuple[Proof, ...] = ()
    onnx: OnnxInfo | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was assumed on the way, such as how images were normalised."""
    provenance: Provenance
