"""`delayer shrink`: activations made linear, round after round."""

from pathlib import Path

from delayer import stages
from delayer.cli.app import DATA, JSON, MODEL, OUT, QUIET, TEST, app
from delayer.cli.config import takes_config
from delayer.cli.opening import opened, opens_networks
from delayer.cli.options import with_options
from delayer.cli.tables import print_record, say_where, try_report
from delayer.shrinking import ShrinkOptions
from delayer.tasks.options import TrainingTaskOptions


@app.command("shrink")
@takes_config
@opens_networks
@with_options(
    load=stages.LoadOptions, task=TrainingTaskOptions, shrink=ShrinkOptions, check=stages.CheckOptions, saving=stages.SaveOptions
)
def shrink_command(
    model: MODEL,
    data: DATA = None,
    test: TEST = None,
    out: OUT = Path("study"),
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    load,
    task,
    shrink,
    check,
    saving,
) -> None:
    """Make activations that hardly switch linear, fine-tune, and check: STUDY/model, STUDY/shrink.json, the report."""
    work = opened(model, data, out, load, task, test, quiet, shrink=shrink, check=check, saving=saving).save_as_(saving)
    with work.study.lock():
        stages.write_study(work)
        small, plan = stages.shrink_stage(work, shrink)
        print_record(stages.check_stage(work, small, plan, check), json_)
        try_report(work.study.folder, json_)
    if not json_:
        say_where(work.study.folder)


@app.command("compare")
@takes_config
@opens_networks
@with_options(load=stages.LoadOptions, task=TrainingTaskOptions, compare=stages.CompareOptions)
def compare_command(
    model: MODEL,
    data: DATA = None,
    test: TEST = None,
    out: OUT = Path("study"),
    json_: JSON = False,
    quiet: QUIET = False,
    *,
    load,
    task,
    compare,
) -> None:
    """Schedules that make activations linear, side by side under one protocol: table, CSV and picture."""
    work = opened(model, data, out, load, task, test, quiet, compare=compare)
    with work.study.lock():
        stages.write_study(work)
        print_record(stages.compare_stage(work, compare), json_)
        try_report(work.study.folder, json_)
