"""All stages, one after another."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delayer.errors import BudgetError
from delayer.progress import Reporter
from delayer.search.asked import check_asked, check_words
from delayer.search.dropping import drops_alone
from delayer.search.options import PlanOptions, ScanOptions
from delayer.search.repairing import settled
from delayer.search.scan import announce_scan
from delayer.stages.check import check_stage
from delayer.stages.cut import cut_stage
from delayer.stages.options import CheckOptions, LoadOptions, SaveOptions
from delayer.stages.plan import plan_stage
from delayer.stages.scan import scan_stage
from delayer.stages.score import score_stage
from delayer.stages.tune import tune_stage
from delayer.stages.work import Work, open_work, write_study
from delayer.study import Results
from delayer.tasks import TaskOptions
from delayer.tuning import TuneOptions
from delayer.tuning.asked import check_in_memory
from delayer.tuning.healing import healing


def report_stage(folder: str | Path) -> Path:
    """report.html, from the study folder alone."""
    from delayer.report import render

    return render(folder)


def run(
    model: str,
    data: str | Sequence[str],
    *,
    out: str | Path,
    load_options: LoadOptions = LoadOptions(),
    task_options: TaskOptions = TaskOptions(),
    scan_options: ScanOptions = ScanOptions(),
    plan_options: PlanOptions = PlanOptions(),
    check_options: CheckOptions = CheckOptions(),
    save_options: SaveOptions = SaveOptions(),
    tune_epochs: int = 0,
    heal: int = 0,
    test: str | None = None,
    reporter: Reporter | None = None,
    on_stage: Callable[[str, Any], None] | None = None,
) -> Results:
    """Everything: score, scan, plan, cut, check and report. Leaves the result in `out`/model and gets the results.

    tune_epochs: epochs of fine-tuning with the original as teacher, between cut and check; none by default.
    heal: tokens to distil the original on instead, in one pass; for networks that write text.
    on_stage: called with each stage's name and record.
    """
    data = (data,) if isinstance(data, str) else tuple(data)
    check_words(plan_options, scan_options)
    options = {
        **load_options.model_dump(mode="json"),
        **task_options.model_dump(mode="json"),
        **scan_options.model_dump(mode="json"),
        **plan_options.model_dump(mode="json"),
        **check_options.model_dump(mode="json"),
        **save_options.model_dump(mode="json"),
        "test": test,
    }
    work = open_work(
        model, data, out=out, load_options=load_options, task_options=task_options, test=test, options=options, reporter=reporter
    )
    work.save_as_(save_options)
    return run_all(work, scan_options, plan_options, check_options, tune_epochs=tune_epochs, heal=heal, on_stage=on_stage)


def run_all(
    work: Work,
    scan_options: ScanOptions = ScanOptions(),
    plan_options: PlanOptions = PlanOptions(),
    check_options: CheckOptions = CheckOptions(),
    *,
    tune_epochs: int = 0,
    heal: int = 0,
    on_stage: Callable[[str, Any], None] | None = None,
) -> Results:
    """All stages of an opened study; see `run`."""
    notify = on_stage or (lambda stage, record: None)
    check_asked(work, plan_options, scan_options)
    if heal and (tune_epochs or work.task.kind not in ("causal-lm", "seq2seq")):
        raise BudgetError("--heal is for networks that write text, and stands instead of --tune-epochs. Give one of both.")
    if heal or tune_epochs:
        check_in_memory(work.model)
    with work.study.lock():
        write_study(work)
        searches = plan_options.method == "ours" and not plan_options.span
        searches = searches and not drops_alone(work, settled(work, plan_options), scan_options)
        if searches:  # so that one pass over the fit split does for score and scan
            announce_scan(work, scan_options)
        notify("score", score_stage(work))
        if searches:
            notify("scan", scan_stage(work, scan_options))
        tries = plan_options.try_onnx and check_options.onnx
        plan = plan_stage(work, plan_options.model_copy(update={"try_onnx": tries}), scan_options)
        notify("plan", plan)
        if tune_epochs or heal:
            small, _, report = tune_stage(work, healing(heal) if heal else TuneOptions(epochs=tune_epochs), plan=plan)
            work.notes.append(report.note)
        else:
            small = cut_stage(work, plan)
        results = check_stage(work, small, plan, check_options)
        notify("check", results)
        if importlib.util.find_spec("plotly") and importlib.util.find_spec("jinja2"):
            notify("report", report_stage(work.study.folder))
    return results
