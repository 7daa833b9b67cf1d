"""The frozen records that stages exchange, and the study folder that holds them.

Every file is written atomically (a temporary file beside it, then a rename), so a killed run leaves each stage either
done or not begun. One process works in a folder at a time.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from delayer.errors import DelayerError, StudyError


class Record(BaseModel):
    """A frozen record; unknown fields are refused, so a typing error in a hand-edited file is found."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


R = TypeVar("R", bound=BaseModel)


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


class Score(Record):
    """What one metric says about a network."""

    name: str
    title: str
    shape: Literal["pairs", "blocks", "spans", "network"]
    """pairs: values[i][j] between points; blocks: values[b]; spans: values[i][j] for the span from point i to j > i;
    network: the numbers that the labels name, of which the first is what networks are compared by."""
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    redundant: Literal["high", "low"]
    """Whether high or low values mean redundancy."""
    unit: str
    source: str
    rows: str
    """Row policy, such as 'each:0.25', 'mean', 'first', 'last'."""
    num_samples: int
    seed: int
    data: str
    model: str = ""
    """Which network; other networks stand beside the study's own for comparison."""
    warnings: tuple[str, ...] = ()
    """What to know before trusting it."""

    @property
    def named(self) -> dict[str, Any]:
        """The numbers of a score of the whole network, by name."""
        return dict(zip(self.labels, self.values, strict=True))


class Scores(Record):
    """scores.json: all metrics on all data sets."""

    scores: tuple[Score, ...]
    ranking: tuple[dict[str, Any], ...]
    """A row a block, most redundant first: block, label, rank by each metric, mean rank."""
    disagreements: tuple[str, ...]
    networks: tuple[Score, ...] = ()
    """Scores of whole networks, this one's and those it was compared with, the most redundant first."""
    correlations: tuple[dict[str, Any], ...] = ()
    """Between the similarity matrices of two data sets: metric, first, second, pearson, spearman."""


class SpanDamage(Record):
    """The predicted damage of one operator on one span."""

    start: int
    stop: int
    operator: str
    ridge: float | None
    rank: int | None = None
    residual: float
    """Relative residual on held-out rows: squared error over the centred energy of the target."""
    residual_fit: float
    """The same on the rows that the map was fitted to."""
    params_saved: int
    macs_saved: int | None
    blocks_saved: int


class Scan(Record):
    """scan.json: every operator on every span, judged on held-out rows."""

    rows: str
    num_rows_fit: int
    num_rows_heldout: int
    spans: tuple[SpanDamage, ...]


class EditInfo(Record):
    """One edit as plain data, enough to draw it."""

    edit: str
    label: str
    spans: tuple[tuple[int, int], ...]
    operator: str = ""
    """What stands there now: "drop" for nothing, or the map's operator."""


class Measured(Record):
    """A candidate set of edits that was measured with the real network on validation data."""

    edits: tuple[EditInfo, ...]
    predicted: float
    """Additive damage predicted before measuring."""
    kl: float | None
    """Mean Kullback-Leibler divergence to the original's output, nats."""
    agreement: float
    """Share of outputs whose top-1 equals the original's, percent."""
    grade: float
    """The task's grade on validation data."""
    params: int
    macs: int | None
    latency_ms: float | None = None
    chosen: bool = False


class Candidates(Record):
    """candidates.json: what was measured before the plan was chosen, best first."""

    grade_name: str
    grade_unit: str
    higher_is_better: bool
    original_grade: float
    measured: tuple[Measured, ...]


class SiteInfo(Record):
    """One activation, and what the site metrics say of it."""

    path: str
    kind: str
    block: int | None
    """The block that it lies in."""
    num_features: int
    positions: int
    norm: str | None
    """The batch norm that feeds it directly."""
    states: dict[str, float]
    """Share of its inputs in each state, over all channels; empty without data."""
    values: dict[str, float | None]
    """By metric; low values mean that it hardly switches."""


class SiteMetricInfo(Record):
    """What a site metric is."""

    name: str
    title: str
    unit: str
    source: str


class Sites(Record):
    """sites.json: every activation in the order of execution, and how much it switches."""

    sites: tuple[SiteInfo, ...]
    metrics: tuple[SiteMetricInfo, ...]
    ranking: tuple[dict[str, Any], ...]
    """A row an activation, the one that switches least first: path, rank by each metric, mean rank."""
    num_samples: int
    """0 where norm parameters alone were read."""
    batch_size: int
    """Samples a chunk, of entropies that are means over batches."""
    data: str
    notes: tuple[str, ...] = ()


class Grade(Record):
    """How good a network is on one split of one task."""

    name: str
    """Such as 'top-1 accuracy', 'perplexity', 'agreement'."""
    unit: str
    value: float
    higher_is_better: bool
    interval: tuple[float, float] | None = None
    """95 % interval by bootstrap over samples."""
    kl: float | None = None
    agreement: float | None = None
    split: str
    num_samples: int


class Round(Record):
    """One round of making activations linear."""

    number: int
    """From 1."""
    sites: tuple[str, ...]
    """Activations that it made linear."""
    why: str
    """What the schedule read, in a few words."""
    before: Grade
    """On validation data, made linear but not yet trained."""
    after: Grade
    """On validation data, trained."""
    kept: bool
    """Whether it stayed; else the network is, bit for bit, what it was before."""
    epochs: int
    seconds: float
    left: int
    """Activations that are still there after it."""
    speedup: float | None = None
    """Original over the network as it is now, merged, paired; where a speed-up was asked for."""


class MergeInfo(Record):
    """Layers that follow one another and are linear: merged, or why not."""

    path: str
    """The module whose forward pass runs them."""
    layers: tuple[str, ...]
    repair: str = "none"
    """What made the border exact: none, constant_channel, bias_map or border_strip."""
    error: float | None = None
    """Largest difference in float64 on whole images, border included, relative to the largest output."""
    before_ms: float | None = None
    after_ms: float | None = None
    speedup: float | None = None
    """Of these layers alone, their norms folded in, over the one layer; paired."""
    speedup_interval: tuple[float, float] | None = None
    merged: bool = False
    note: str = ""


class Shrunk(Record):
    """shrink.json: how activations were made linear, round by round."""

    schedule: str
    original: Grade
    """On validation data."""
    grade: Grade
    """Of the network as it is now, on validation data."""
    num_sites: int
    """Activations that there were."""
    edits: tuple[EditInfo, ...]
    rounds: tuple[Round, ...]
    note: str
    """Why it stopped, in one sentence."""
    merges: tuple[MergeInfo, ...] = ()

    @property
    def num_removed(self) -> int:
        return self.num_sites - self.rounds[-1].left if self.rounds else 0

    @property
    def num_epochs(self) -> int:
        return sum(one.epochs for one in self.rounds)


class Compared(Record):
    """One schedule with one seed, after one of its rounds, on test data."""

    schedule: str
    seed: int
    num_removed: int
    """Activations that are linear ("Rem.")."""
    num_epochs: int
    """Of training, so far."""
    seconds: float
    """Of choosing and training, so far."""
    grade: Grade
    params: int
    macs: int | None
    num_merged: int = 0
    """Linear layers and convolutions fewer than the original has, after the last round."""
    latency_ms: float | None = None
    """Median at batch 1, after the last round."""
    speedup: float | None = None
    """Original over this, paired, after the last round."""


class Comparison(Record):
    """compare.json: schedules under one protocol."""

    original: Grade
    """On test data."""
    num_sites: int
    params: int
    macs: int | None
    rows: tuple[Compared, ...]


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


def share_(path: str | Path) -> None:
    """Give a file the permissions that new files have here; temporary and safetensors files are the owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    Raises StudyError when the disk is full or the folder cannot be written; the old file then stays as it was.
    """
    data = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    name = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            name = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        share_(name)
        os.replace(name, path)
    except OSError as error:
        raise StudyError(
            f"{path} could not be written ({error.strerror or error}); what stood there before is untouched. "
            "Free some space or choose another --out folder."
        ) from error
    finally:
        if name and os.path.exists(name):
            os.unlink(name)


class Study:
    """A folder on disk: scores, scan, plan, weights, results and report; every stage reads and writes it."""

    FILES = {
        "study": ("study.json", StudyInfo, "score"),
        "scores": ("scores.json", Scores, "score"),
        "sites": ("sites.json", Sites, "sites"),
        "scan": ("scan.json", Scan, "scan"),
        "candidates": ("candidates.json", Candidates, "plan"),
        "shrink": ("shrink.json", Shrunk, "shrink"),
        "compare": ("compare.json", Comparison, "compare"),
        "results": ("results.json", Results, "check"),
    }
    """File, record and the stage that writes it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise StudyError(f"The study folder {self.folder} is a file. Choose another --out folder.")

    def path(self, name: str) -> Path:
        return self.folder / name

    def has(self, name: str) -> bool:
        return self.path(self.FILES[name][0]).exists()

    def read(self, name: str) -> Any:
        """The record called `name`. Raises StudyError when it is missing or corrupted."""
        file, kind, stage = self.FILES[name]
        if not self.has(name):
            raise StudyError(f"{self.folder} has no {file}; run `delayer {stage}` (or `delayer run`) first.")
        return read_record(self.path(file), kind)

    def read_or_none(self, name: str) -> Any:
        return self.read(name) if self.has(name) else None

    def write(self, name: str, record: BaseModel) -> None:
        file, kind, _ = self.FILES[name]
        if not isinstance(record, kind):
            raise TypeError(f"{file} holds a {kind.__name__}, not a {type(record).__name__}.")
        write_atomically(self.path(file), record.model_dump_json(indent=1))

    @contextmanager
    def lock(self) -> Iterator["Study"]:
        """Hold the folder for this process. Raises StudyError when another process works in it."""
        import fcntl

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.path(".lock"), "a+")
        except OSError as error:
            raise StudyError(
                f"The study folder {self.folder} cannot be written ({error.strerror}). Choose another --out folder."
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StudyError(
                    f"Another process works in {self.folder}. Wait for it, or choose another --out folder."
                ) from error
            yield self


def read_record(path: Path, kind: type[R], error: type[DelayerError] = StudyError) -> R:
    """The record in a JSON file. Raises `error` naming the field when the file is corrupted."""
    try:
        return kind.model_validate_json(path.read_text())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise error(
            f"{path} is not a valid {kind.__name__}: {where}: {first['msg']}. "
            "Restore the file, or delete it and run the stage again."
        ) from problem
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise error(f"{path} cannot be read ({problem}). Restore it, or delete it and run again.") from problem
