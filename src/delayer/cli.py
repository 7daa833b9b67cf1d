"""The command line: thin commands, one a stage. Option help is the docstring of each option's field."""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import torch
import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table

from delayer import __version__, stages
from delayer.errors import DelayerError, StudyError
from delayer.plan import Plan, read_plan
from delayer.processes import join_processes
from delayer.progress import Reporter
from delayer.study import OnnxInfo, Results, Scan, Scores, Study, StudyInfo
from delayer.tasks import TaskOptions
from delayer.tune import TuneOptions, TuneReport

app = typer.Typer(
    name="delayer", add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Makes trained networks shallower: watches a network once, says which blocks repeat each other, cuts them, "
         "proves what was lost, measures what was won, and hands over a smaller network that loads like any other.",
)
MODEL = Annotated[str, typer.Argument(
    metavar="MODEL", help="Hugging Face name or folder, timm:NAME, package.module:factory, or a study folder.")]
STUDY = Annotated[Path, typer.Argument(metavar="STUDY", help="Study folder that earlier stages wrote.")]
DATA = Annotated[list[str] | None, typer.Option(
    "--data", help="Data, such as imagefolder:PATH, npz:PATH#train, csv:PATH, text:PATH, hf:NAME, digits. "
                   "`score` takes several.")]
TEST = Annotated[str | None, typer.Option("--test", help="Data of their own for the test split.")]
OUT = Annotated[Path, typer.Option("--out", help="Study folder to write.")]
JSON = Annotated[bool, typer.Option("--json", help="Print the stage's record as JSON on standard output.")]
QUIET = Annotated[bool, typer.Option("--quiet", help="No progress.")]

_HIDDEN = {"kind"}
OUT_OF_MEMORY = "Out of memory. Half the --batch-size needs about half of it; --share and --memory make statistics smaller."


def with_options(**models: type[BaseModel]) -> Callable[[Callable], Callable]:
    """Give a command one option for each field of some option models; it gets the filled models by their names."""

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command).parameters
        fields = {f: (name, info) for name, model in models.items() for f, info in model.model_fields.items()}

        def wrapped(**given: Any) -> Any:
            try:
                filled = {
                    name: model(**{f: tuple(given[f]) if isinstance(given[f], list) else given[f]
                                   for f, (owner, _) in fields.items() if owner == name and given[f] is not None})
                    for name, model in models.items()
                }
            except ValidationError as error:
                first = error.errors()[0]
                option = "--" + str(first["loc"][0]).replace("_", "-")
                raise DelayerError(f"{option} {first['input']!r} does not do: {first['msg'].lower()}.") from error
            return command(**{k: v for k, v in given.items() if k not in fields}, **filled)

        extra = [
            inspect.Parameter(f, inspect.Parameter.KEYWORD_ONLY, default=_default(info),
                              annotation=Annotated[_plain_type(info.annotation), typer.Option(
                                  help=info.description, show_default=info.default not in (None, ()),
                                  hidden=f in _HIDDEN)])
            for f, (_, info) in fields.items()
        ]
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in own.items() if n not in models]
        wrapped.__signature__ = inspect.Signature([*kept, *extra])
        wrapped.__annotations__ = {p.name: p.annotation for p in [*kept, *extra]}
        wrapped.__doc__, wrapped.__name__ = command.__doc__, command.__name__
        return wrapped

    return decorate


def _default(info: Any) -> Any:
    return list(info.default) if isinstance(info.default, tuple) else info.default


def _plain_type(kind: Any) -> Any:
    """What typer understands of a field's type: tuples become lists, choices their base type."""
    options = [a for a in get_args(kind) if a is not type(None)]
    if get_origin(kind) is tuple:
        return list[options[0]]
    if type(None) in get_args(kind):
        first = next((a for a in options if get_origin(a) is not tuple), options[0])
        return _plain_type(first) | None if get_origin(first) is None else _plain_type(first)
    return str if get_origin(kind) is not None and get_origin(kind) is not list else kind


def _opened(model: str, data: list[str] | None, out: Path | None, load: stages.LoadOptions, task: TaskOptions,
            test: str | None, quiet: bool, **more: BaseModel) -> stages.Work:
    """The work that a command is about; a study folder stands for what was asked when it was made."""
    reporter = Reporter(quiet=quiet)
    folder = Path(model)
    if (folder / "study.json").exists():
        return reopened(folder, reporter)
    if not data:
        raise DelayerError(f"Which data? Give --data, such as imagefolder:PATH or digits. ({model} is no study folder.)")
    options = {k: v for record in (load, task, *more.values()) for k, v in record.model_dump(mode="json").items()}
    return stages.open_work(model, data, out=out, load_options=load, task_options=task, test=test,
                            options=options | {"test": test}, reporter=reporter)


def reopened(folder: Path, reporter: Reporter) -> stages.Work:
    """The work of a study folder, with the network, data and options that it was made with."""
    info: StudyInfo = Study(folder).read("study")
    chosen = {m: m(**{k: v for k, v in info.asked.options.items() if k in m.model_fields and v is not None})
              for m in (stages.LoadOptions, TaskOptions)}
    work = stages.open_work(info.asked.model, info.asked.data, out=folder, load_options=chosen[stages.LoadOptions],
                            task_options=chosen[TaskOptions], test=info.asked.options.get("test"),
                            options=info.asked.options, reporter=reporter)
    if work.model_hash != info.provenance.model_hash:
        raise StudyError(
            f"{folder} was made for weights {info.provenance.model_hash}, but {info.asked.model} now has "
            f"{work.model_hash}. Start a new study folder, or bring the old weights back."
        )
    return work


def _options_of(work: stages.Work, model: type[BaseModel]) -> Any:
    """Options of an earlier command, from the study."""
    return model(**{k: v for k, v in work.options.items() if k in model.model_fields and v is not None})


@app.command("run")
@with_options(load=stages.LoadOptions, task=TaskOptions, scan=stages.ScanOptions, plan=stages.PlanOptions,
              check=stages.CheckOptions)
def run_command(model: MODEL, data: DATA = None, test: TEST = None, out: OUT = Path("study"),
                tune_epochs: Annotated[int, typer.Option(help="Epochs of fine-tuning with the original as teacher.")] = 0,
                json_: JSON = False, quiet: QUIET = False, *, load, task, scan, plan, check) -> None:
    """Everything: score, scan, plan, cut, check, report. The result is STUDY/model, STUDY/report.html, results.json."""
    if not data:
        raise DelayerError("Which data? Give --data, such as imagefolder:PATH or digits.")
    results = stages.run(model, data, out=out, load_options=load, task_options=task, scan_options=scan,
                         plan_options=plan, check_options=check, tune_epochs=tune_epochs, test=test,
                         reporter=Reporter(quiet=quiet), on_stage=None if json_ or quiet else _show)
    if json_:
        print(results.model_dump_json(indent=1))
    else:
        _say_where(out)


@app.command("score")
@with_options(load=stages.LoadOptions, task=TaskOptions)
def score_command(model: MODEL, data: DATA = None, out: OUT = Path("study"), json_: JSON = False, quiet: QUIET = False,
                  *, load, task) -> None:
    """Which blocks repeat each other: every metric, a ranking, and where metrics or data sets disagree."""
    work = _opened(model, data, out, load, task, None, quiet)
    with work.study.lock():
        stages.write_study(work)
        _print(stages.score_stage(work), json_)
        _try_report(work.study.folder, json_)


@app.command("scan")
@with_options(load=stages.LoadOptions, task=TaskOptions, scan=stages.ScanOptions)
def scan_command(model: MODEL, data: DATA = None, out: OUT = Path("study"), json_: JSON = False, quiet: QUIET = False,
                 *, load, task, scan) -> None:
    """The held-out error of every operator on every span, before anything is cut."""
    work = _opened(model, data, out, load, task, None, quiet, scan=scan)
    with work.study.lock():
        stages.write_study(work)
        _print(stages.scan_stage(work, scan), json_)
        _try_report(work.study.folder, json_)


@app.command("plan")
@with_options(load=stages.LoadOptions, task=TaskOptions, scan=stages.ScanOptions, plan=stages.PlanOptions)
def plan_command(model: MODEL, data: DATA = None, out: OUT = Path("study"), json_: JSON = False, quiet: QUIET = False,
                 *, load, task, scan, plan) -> None:
    """What to cut under a budget, chosen on validation data: plan.json, which can be edited and replayed."""
    work = _opened(model, data, out, load, task, None, quiet, scan=scan, plan=plan)
    with work.study.lock():
        stages.write_study(work)
        _print(stages.plan_stage(work, plan, scan), json_)


@app.command("cut")
def cut_command(study: STUDY, plan: Annotated[Path | None, typer.Option("--plan", help="Another plan file to replay.")] = None,
                json_: JSON = False, quiet: QUIET = False) -> None:
    """Cut as planned and save STUDY/model."""
    work = reopened(study, Reporter(quiet=quiet))
    with work.study.lock():
        chosen = read_plan(plan or study / "plan.json")
        stages.cut_stage(work, chosen)
        if plan:
            chosen.save(study / "plan.json")
        _print(chosen, json_)


@app.command("tune")
@with_options(tune=TuneOptions)
def tune_command(study: STUDY, only: Annotated[str, typer.Option(
                     help="everything, or neighbourhood: the maps and the blocks next to each cut.")] = "everything",
                 json_: JSON = False, quiet: QUIET = False, *, tune) -> None:
    """Fine-tune STUDY/model shortly with the original as teacher; keeps the best epoch on validation data."""
    work = reopened(study, Reporter(quiet=quiet))
    with work.study.lock():
        plan = read_plan(study / "plan.json")
        _, report = stages.tune_stage(work, stages.cut_stage(work, plan), plan, tune, only=only)
        _print(report, json_)


@app.command("export")
def export_command(study: STUDY, json_: JSON = False, quiet: QUIET = False) -> None:
    """Export STUDY/model to ONNX and check it against torch."""
    work = reopened(study, Reporter(quiet=quiet))
    with work.study.lock():
        _print(stages.export_stage(work, stages.cut_stage(work, read_plan(study / "plan.json"))), json_)


@app.command("check")
@with_options(check=stages.CheckOptions)
def check_command(study: STUDY, json_: JSON = False, quiet: QUIET = False, *, check) -> None:
    """What was lost and won: test grade, parameters, multiply-adds, memory, latency, reload proof, ONNX."""
    work = reopened(study, Reporter(quiet=quiet))
    with work.study.lock():
        plan = read_plan(study / "plan.json")
        _print(stages.check_stage(work, stages.cut_stage(work, plan), plan, check), json_)
        _try_report(study, json_)


@app.command("report")
def report_command(study: STUDY) -> None:
    """One self-contained page, from the study folder alone."""
    print(stages.report_stage(study))


@app.command("list")
def list_command(what: Annotated[str, typer.Argument(
        help="metrics, edits, families, sources or operators; all by default.")] = "") -> None:
    """What delayer knows: metrics, edits, families, data sources, operators."""
    from delayer.affine import OPERATORS
    from delayer.edits import edits
    from delayer.families import families
    from delayer.metrics import metrics
    from delayer.tasks.sources import sources

    known: dict[str, list[tuple[str, str]]] = {
        "metrics": [(name, f"{m.title}. {m.source}") for name, m in metrics.items()],
        "edits": [(name, _first_line(e.__doc__)) for name, e in edits.items()],
        "families": [(name, f.blocks) for name, f in families.items()],
        "sources": [(name, _first_line(s.__doc__)) for name, s in sources.items()],
        "operators": [(name, "") for name in ("drop", *OPERATORS)],
    }
    if what and what not in known:
        raise DelayerError(f"There is no list of {what!r}. Ask for {', '.join(known)}.")
    for kind, rows in known.items():
        if what in ("", kind):
            table = Table("name", "what", title=kind, title_justify="left")
            for name, text in rows:
                table.add_row(name, text)
            Console().print(table)


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


# --- printing -----------------------------------------------------------------------------------------------------


def _print(record: BaseModel, as_json: bool) -> None:
    if as_json:
        print(record.model_dump_json(indent=1))
    else:
        _show("", record)


def _show(stage: str, record: Any) -> None:
    """A short table of what a stage found."""
    console = Console()
    if isinstance(record, Scores):
        console.print(_scores_table(record))
        for text in record.disagreements:
            console.print(f"[yellow]{text}[/]")
        if record.correlations:
            table = Table("metric", "first", "second", "Pearson", "Spearman", title="Same pattern on other data?")
            for row in record.correlations:
                table.add_row(row["metric"], row["first"], row["second"], f"{row['pearson']:.3f}", f"{row['spearman']:.3f}")
            console.print(table)
    elif isinstance(record, Scan):
        console.print(_scan_table(record))
    elif isinstance(record, Plan):
        for edit in record.edits:
            console.print(f"plan: {edit.label}")
        console.print(f"maps fitted: {record.refit}")
    elif isinstance(record, TuneReport):
        console.print(record.note)
    elif isinstance(record, OnnxInfo):
        console.print(f"{record.path}: {record.size_bytes:,} bytes, largest difference {record.max_abs_difference:.1e}")
    elif isinstance(record, Results):
        console.print(_results_table(record))
        for text in record.warnings:
            console.print(f"[yellow]{text}[/]")
        console.print(record.headline, style="bold")


def _scores_table(scores: Scores) -> Table:
    titles = list(dict.fromkeys(s.title for s in scores.scores))
    table = Table("block", "mean rank", *titles, title="Blocks, most redundant first (rank by each metric)")
    for row in scores.ranking[:12]:
        table.add_row(str(row["block"]), f"{row['mean_rank']:.1f}",
                      *(str(row["ranks"].get(t, "")) for t in titles))
    return table


def _scan_table(scan: Scan) -> Table:
    operators = list(dict.fromkeys(s.operator for s in scan.spans))
    table = Table("block", *operators, title="Held-out relative residual of single blocks (0 is perfect)")
    singles: dict[int, dict[str, float]] = {}
    for s in scan.spans:
        if s.stop == s.start + 1:
            best = singles.setdefault(s.start, {})
            best[s.operator] = min(best.get(s.operator, float("inf")), s.residual)
    for block, values in sorted(singles.items()):
        table.add_row(str(block), *(f"{values[o]:.3f}" if o in values else "" for o in operators))
    return table


def _results_table(results: Results) -> Table:
    a, b = results.original, results.cut
    table = Table("", "original", "cut", "change", title="What was lost, what was won")
    table.add_row(f"{a.grade.name} (test, {a.grade.num_samples})", f"{a.grade.value:.2f}", f"{b.grade.value:.2f}",
                  f"{b.grade.value - a.grade.value:+.2f}")
    if b.grade.kl is not None:
        table.add_row("divergence from the original", "", f"{b.grade.kl:.4f}", "nats")
    table.add_row("blocks", str(a.num_blocks), str(b.num_blocks), f"{b.num_blocks - a.num_blocks:+d}")
    table.add_row("parameters", f"{a.params:,}", f"{b.params:,}", f"{100 * (b.params / a.params - 1):+.1f} %")
    if a.macs and b.macs:
        table.add_row("multiply-adds", f"{a.macs:,}", f"{b.macs:,}", f"{100 * (b.macs / a.macs - 1):+.1f} %")
    for t in results.latency:
        low, high = t.speedup_interval
        table.add_row(f"{t.engine}, batch {t.batch_size}", f"{t.original_ms:.1f} ms", f"{t.cut_ms:.1f} ms",
                      f"{t.speedup:.2f}× ({low:.2f}–{high:.2f})")
    for p in results.proofs:
        table.add_row(f"reload, {p.loader}", "", f"{p.max_abs_difference:.1e}", "proven" if p.passed else "FAILED")
    if results.onnx:
        table.add_row("ONNX against torch", "", f"{results.onnx.max_abs_difference:.1e}", "")
    return table


def _say_where(out: Path) -> None:
    Console().print(f"Smaller network: {out / 'model'}\nReport:          {out / 'report.html'}", highlight=False)


def _try_report(folder: Path, as_json: bool) -> None:
    try:
        path = stages.report_stage(folder)
    except ImportError:
        return
    if not as_json:
        print(f"Report: {path}")


# --- entry --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line: exit 2 with one sentence on errors that delayer knows, 130 when interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "--version" in sys.argv[1:2]:
        print(__version__)
        return
    try:
        if join_processes()[0] > 0:  # the first of several processes speaks for all
            sys.stdout = open(os.devnull, "w")
            sys.argv += [] if "--quiet" in sys.argv or sys.argv[1:2] in (["report"], ["list"]) else ["--quiet"]
        if code := app(standalone_mode=False):  # typer turns Ctrl-C into this number
            sys.exit(_interrupted() if code == 130 else code)
    except DelayerError as error:
        _fail(str(error))
    except MemoryError:
        _fail(OUT_OF_MEMORY)
    except RuntimeError as error:  # the CPU's allocator raises a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        _fail(OUT_OF_MEMORY)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_interrupted())
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except BaseException as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a usage error of the command line itself
            error.show()
            sys.exit(error.exit_code)
        raise


def _interrupted() -> int:
    print("\nStopped. The same command goes on where this one stood.", file=sys.stderr)
    return 130


def _fail(text: str) -> None:
    print(f"delayer: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(2)


if __name__ == "__main__":
    main()
