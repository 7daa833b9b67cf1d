"""The commands over a study, one a stage."""

from pathlib import Path
from typing import Annotated, Any

import typer

from delayer import stages
from delayer.cli.app import DATA, JSON, MODEL, OUT, QUIET, STUDY, TEST, app
from delayer.cli.config import takes_config
from delayer.cli.opening import opened, opens_networks, reopened
from delayer.cli.options import with_options
from delayer.cli.sections import TRAINING
from delayer.cli.tables import print_record, say_where, show, show_candidates, try_report
from delayer.cutting import read_plan
from delayer.progress import Reporter
from delayer.search.asked import check_words
from delayer.search.scoring import ScoreOptions
from delayer.stages.tune import check_tuning
from delayer.tasks import TaskOptions
from delayer.tuning import TuneOptions
from delayer.tuning.healing import num_tokens_of


@app.command("run")
@takes_config
@opens_networks
@with_options(
    load=stages.LoadOptions,
    task=TaskOptions,
    scan=stages.ScanOptions,
    plan=stages.PlanOptions,
    check=stages.CheckOptions,
    saving=stages.SaveOptions,
)
def run_command(
    model: MODEL,
    data: DATA = None,
    test: TEST = None,
    out: OUT = Path("study"),
    tune_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of fine-tuning with the original as teacher.", rich_help_panel=TRAINING)
    ] = 0,
    heal: Annotated[
        str,
        typer.Option(
            metavar="TOKENS",
            help="Tokens of text to distil the original on after the cut, such as 50k.",
            rich_help_panel=TRAINING,
        ),
    ] = "",
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    load,
    task,
    scan,
    plan,
    check,
    saving,
) -> None:
    """Everything: score, scan, plan, cut, check, report. The result is STUDY/model, STUDY/report.html, results.json."""
    check_words(plan, scan)
    num_tokens = num_tokens_of(heal) if heal else 0
    work = opened(model, data, out, load, task, test, quiet, scan=scan, plan=plan, check=check, saving=saving).save_as_(saving)

    def show_stage(stage: str, record: Any) -> None:
        show(stage, record)
        if stage == "plan":
            show_candidates(work.study)

    results = stages.run_all(
        work, scan, plan, check, tune_epochs=tune_epochs, heal=num_tokens, on_stage=None if json_ or quiet else show_stage
    )
    if json_:
        print(results.model_dump_json(indent=1))
    else:
        say_where(work.study.folder)


@app.command("score")
@takes_config
@opens_networks
@with_options(load=stages.LoadOptions, task=TaskOptions, counting=ScoreOptions)
def score_command(
    model: MODEL,
    data: DATA = None,
    out: OUT = Path("study"),
    others: Annotated[
        list[str] | None,
        typer.Option("--with", help="Another network, or its study folder, to compare as a whole; may be repeated."),
    ] = None,
    with_sites: Annotated[
        bool, typer.Option("--sites", help="Watch the activations in the same pass, as `delayer sites` would in its own.")
    ] = False,
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    load,
    task,
    counting,
) -> None:
    """How redundant the network is and which blocks repeat each other: every metric, a ranking, disagreements."""
    work = opened(model, data, out, load, task, None, quiet, counting=counting)
    work.options |= counting.model_dump(mode="json")
    beside = [
        opened(
            other,
            data or list(work.data),
            out,
            load.model_copy(update={"weights": None, "blocks": None}),
            task,
            None,
            quiet,
            beside=True,
        )
        for other in others or ()
    ]
    with work.study.lock():
        stages.write_study(work)
        watched = stages.SitesOptions() if with_sites else None
        print_record(stages.score_stage(work, counting, others=beside, sites=watched), json_)
        try_report(work.study.folder, json_)


@app.command("scan")
@takes_config
@opens_networks
@with_options(load=stages.LoadOptions, task=TaskOptions, scan=stages.ScanOptions)
def scan_command(
    model: MODEL, data: DATA = None, out: OUT = Path("study"), json_: JSON = False, quiet: QUIET = False, *, load, task, scan
) -> None:
    """The held-out error of every operator on every span, before anything is cut."""
    work = opened(model, data, out, load, task, None, quiet, scan=scan)
    with work.study.lock():
        stages.write_study(work)
        print_record(stages.scan_stage(work, scan), json_)
        try_report(work.study.folder, json_)


@app.command("plan")
@takes_config
@opens_networks
@with_options(load=stages.LoadOptions, task=TaskOptions, scan=stages.ScanOptions, plan=stages.PlanOptions)
def plan_command(
    model: MODEL,
    data: DATA = None,
    out: OUT = Path("study"),
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    load,
    task,
    scan,
    plan,
) -> None:
    """What to cut under a budget, chosen on validation data: plan.json, which can be edited and replayed."""
    check_words(plan, scan)
    work = opened(model, data, out, load, task, None, quiet, scan=scan, plan=plan)
    with work.study.lock():
        stages.write_study(work)
        print_record(stages.plan_stage(work, plan, scan), json_)
        if not json_:
            show_candidates(work.study)


@app.command("cut")
@opens_networks
@with_options(saving=stages.SaveOptions)
def cut_command(
    study: STUDY,
    plan: Annotated[Path | None, typer.Option("--plan", help="Another plan file to replay.")] = None,
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    saving,
) -> None:
    """Cut as planned and save STUDY/model."""
    work = reopened(study, Reporter(quiet=quiet)).save_as_(saving)
    with work.study.lock():
        chosen = read_plan(plan or study / "plan.json")
        stages.cut_stage(work, chosen)
        print_record(chosen, json_)


@app.command("tune")
@opens_networks
@with_options(tune=TuneOptions, saving=stages.SaveOptions)
def tune_command(
    study: STUDY,
    only: Annotated[
        str, typer.Option(help="everything, or neighbourhood: the maps and the blocks next to each cut.")
    ] = "everything",
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    tune,
    saving,
) -> None:
    """Fine-tune STUDY/model, as it was cut or shrunk, shortly with the original as teacher; keeps the best epoch."""
    check_tuning(tune, only)
    work = reopened(study, Reporter(quiet=quiet)).save_as_(saving)
    with work.study.lock():
        print_record(stages.tune_stage(work, tune, only=only)[2], json_)


@app.command("export")
@opens_networks
def export_command(study: STUDY, json_: JSON = False, quiet: QUIET = False) -> None:
    """Export STUDY/model to ONNX and check it against torch."""
    work = reopened(study, Reporter(quiet=quiet))
    with work.study.lock():
        print_record(stages.export_stage(work, stages.standing(work)[0]), json_)


@app.command("check")
@opens_networks
@with_options(check=stages.CheckOptions)
def check_command(study: STUDY, json_: JSON = False, quiet: QUIET = False, *, check) -> None:
    """What was lost and won: test grade, parameters, multiply-adds, memory, latency, reload proof, ONNX."""
    work = reopened(study, Reporter(quiet=quiet))
    with work.study.lock():
        small, plan, _ = stages.standing(work)
        print_record(stages.check_stage(work, small, plan, check), json_)
        try_report(study, json_)


@app.command("report")
def report_command(study: STUDY) -> None:
    """One self-contained page, from the study folder alone."""
    print(stages.report_stage(study))
