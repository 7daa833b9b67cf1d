"""Stage: schedules under one protocol, measured on test data."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from delayer.errors import DelayerError, StudyError
from delayer.measure import compare_latency, num_macs, num_params
from delayer.network.calling import example_of
from delayer.network.chain import Chain
from delayer.shrinking import ShrinkOptions, merge_faster_, num_kernels, schedules, shrink
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.shrink import round_line
from delayer.stages.work import Work
from delayer.study import Compared, Comparison, Grade, Record, Round, as_lines, whole_lines, write_atomically
from delayer.tasks import grade_of, predictions
from delayer.tasks.outputs import Outputs


class CompareOptions(Record):
    """Which schedules, how far, and how often."""

    schedules: str = "easier,tlc,nepenthe,folding,random,last,magnitude,ours"
    """Schedules to compare, separated by commas."""
    remove: int = Field(default=6, ge=1)
    """Activations that each removes."""
    a_round: int = Field(default=2, ge=1)
    """Activations that each round removes: the points of the curve."""
    epochs: int = Field(default=1, ge=0)
    """Epochs of fine-tuning in a round, the same for all."""
    seeds: int = Field(default=3, ge=1)
    """Seeds of the training, 0 and up."""
    rates: str = ""
    """Peak learning rates of schedules whose own default does not suit the network, such as easier=0.001,tlc=0.001."""

    @property
    def names(self) -> list[str]:
        """Of the schedules. Raises UnknownName."""
        names = [name.strip() for name in self.schedules.split(",") if name.strip()]
        for name in names:
            schedules[name]
        return names

    def rate(self, name: str) -> float | None:
        """Of a schedule; None for its own default. Raises DelayerError for what is no list of rates."""
        found = {}
        for item in filter(None, (part.strip() for part in self.rates.split(","))):
            which, _, value = item.partition("=")
            try:
                found[which.strip()] = float(value)
            except ValueError as error:
                raise DelayerError(f"--rates {self.rates!r}: {item!r} is no rate. Write easier=0.001,tlc=0.001.") from error
        if strange := sorted(found.keys() - set(self.names)):
            raise DelayerError(f"--rates names {strange[0]!r}, which is not among the schedules {', '.join(self.names)}.")
        return found.get(name)


def compare_stage(work: Work, options: CompareOptions = CompareOptions()) -> Comparison:
    """compare.json and compare.csv; a killed comparison goes on where it stood.

    Every schedule makes the same number of activations linear in the same rounds, with the same epochs; nothing is
    rolled back. After the last round what became linear is merged where that is faster, for every schedule alike. Grades
    are on test data, and nothing is chosen by them.
    """
    for name in options.names:
        options.rate(name)  # raises before hours of work
    key = stage_key(work, "compare", options, work.task_options)
    if is_finished(work, "compare", key):
        return work.study.read("compare")
    reference = predictions(work.model, work.task.batches("test"), device=work.device)
    original = grade_of(reference, reference, seed=work.seed)
    rows: list[Compared] = []
    num_sites = 0
    for seed in range(options.seeds):
        for name in options.names:
            with work.reporter.step(f"{name}, seed {seed}") as tick:
                found, num_sites = curve(work, name, seed, options, reference, tick)
            rows += found
    comparison = Comparison(
        original=original, num_sites=num_sites, params=num_params(work.model), macs=work.macs, rows=tuple(rows)
    )
    work.study.write("compare", comparison)
    write_atomically(work.study.path("compare.csv"), as_csv(rows))
    finish(work, "compare", key, ["compare.json", "compare.csv"])
    return comparison


def curve(
    work: Work,
    name: str,
    seed: int,
    options: CompareOptions,
    reference: Outputs,
    tick: Callable[[int, int], None] | None = None,
    see: Callable[[Compared, Outputs], None] | None = None,
) -> tuple[list[Compared], int]:
    """The points of one schedule with one seed, and how many activations there were; kept in the study for a later call.

    reference: the original's answers on test data. see: called after each round with its row and the network's answers.
    """
    file = work.study.path(f".compare/{name}-{seed}.jsonl")
    asked = ShrinkOptions(
        schedule=name,
        tolerance=1e9,
        remove=options.remove,
        a_round=options.a_round,
        fill=True,
        epochs=options.epochs,
        learning_rate=options.rate(name),
    )
    rows = _kept(file)

    def note(one: Round, small: Chain) -> None:
        work.reporter.line(round_line(one))
        del rows[one.number - 1 :]  # a round that was killed before it was kept is done again
        removed, epochs, seconds = (rows[-1].num_removed, rows[-1].num_epochs, rows[-1].seconds) if rows else (0, 0, 0.0)
        outputs = predictions(small.model, work.task.batches("test"), device=work.device)
        rows.append(
            Compared(
                schedule=name,
                seed=seed,
                num_removed=removed + len(one.sites) * one.kept,
                num_epochs=epochs + one.epochs,
                seconds=seconds + one.seconds,
                grade=grade_of(outputs, reference, seed=work.seed),
                params=num_params(small.model),
                macs=num_macs(small.model, example_of(work.example, 1)),
            )
        )
        if see:
            see(rows[-1], outputs)
        write_atomically(file, as_lines(row.model_dump(mode="json") for row in rows))

    small, _, shrunk = shrink(
        work.chain,
        work.task,
        asked,
        example=work.example,
        seed=seed,
        on_round=note,
        folder=work.study.path(f".compare/{name}-{seed}"),
        progress=tick,
    )
    if rows and rows[-1].speedup is None:
        small.model.eval()
        merge_faster_(small, example_of(work.example, 1), seed=seed)
        [time] = compare_latency(work.model, small.model, work.example, (1,), seconds=2.0, device=work.device, seed=seed)
        rows[-1] = rows[-1].model_copy(
            update={
                "latency_ms": time.cut_ms,
                "speedup": time.speedup,
                "num_merged": num_kernels(work.model) - num_kernels(small.model),
                "params": num_params(small.model),
                "macs": num_macs(small.model, example_of(work.example, 1)),
            }
        )
        write_atomically(file, as_lines(row.model_dump(mode="json") for row in rows))
    if not rows:
        raise DelayerError(f"{name} removed nothing: {shrunk.note}")
    return rows, shrunk.num_sites


def _kept(file: Path) -> list[Compared]:
    """The rows of a comparison that goes on. Raises StudyError for one that was changed."""
    found = list(whole_lines(file)) if file.exists() else []
    if None in found:
        raise StudyError(
            f"Line {found.index(None) + 1} of {file} is damaged. Delete it and the folder {file.stem} beside it; "
            "the same command then does this schedule again."
        )
    return [Compared.model_validate(row) for row in found]


def as_csv(rows: Sequence[Compared]) -> str:
    """A line a point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "schedule",
            "seed",
            "removed",
            "merged",
            "epochs",
            "seconds",
            "grade",
            "value",
            "params",
            "macs",
            "latency_ms",
            "speedup",
        ]
    )
    for row in rows:
        grade: Grade = row.grade
        writer.writerow(
            [
                row.schedule,
                row.seed,
                row.num_removed,
                row.num_merged,
                row.num_epochs,
                f"{row.seconds:.1f}",
                grade.name,
                f"{grade.value:.4f}",
                row.params,
                row.macs,
                row.latency_ms,
                row.speedup,
            ]
        )
    return text.getvalue()
