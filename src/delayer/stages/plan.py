"""Stage: what to cut, chosen on validation data."""

from collections.abc import Sequence
from functools import partial

from delayer.cutting import Plan, apply, plan_by_hand, read_plan
from delayer.edits import Edit
from delayer.errors import StudyError
from delayer.measure import compare_latency, num_params
from delayer.measure.profile import profile_blocks, saved_ms
from delayer.network.chain import Span
from delayer.observing.processes import from_first
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.search.budget import Budget
from delayer.search.judging import Measuring, Verdict, attempt, damage_of, drop_of, ensure_judged, takes
from delayer.search.methods import Method, methods
from delayer.search.planner import KEEP, deepest, edit_of, plan_spans
from delayer.search.repair import tail_of
from delayer.search.scan import scan
from delayer.search.ties import best_of
from delayer.stages.artefacts import changed, finish, is_finished, stage_key
from delayer.stages.asked import check_asked, operators_of
from delayer.stages.measuring import best_of_finalists, measuring, original_grade, write_candidates
from delayer.stages.options import PlanOptions, ScanOptions
from delayer.stages.repair import repaired
from delayer.stages.scan import scan_stage, watched_groups
from delayer.stages.score import score_stage
from delayer.stages.work import Work
from delayer.store import example_of
from delayer.study import Grade, Scan, Study
from delayer.study.marks import read_marks
from delayer.tasks import evaluate

BESIDE = ("candidates", "spans")
"""Records that a plan may leave beside itself."""


def plan_stage(work: Work, options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> Plan:
    """plan.json, and candidates.json or spans.json where cuts were measured: what to cut, chosen on validation data."""
    key = stage_key(work, "plan", options, scan_options, work.task_options)
    path = work.study.path("plan.json")
    if "plan.json" in changed(work, "plan") and path.exists():
        _keep_edited(work, key)
    if is_finished(work, "plan", key):
        return read_plan(path)
    check_asked(work, options, scan_options)
    for name in BESIDE:  # of an earlier plan
        work.study.discard(name)
    plan = (
        _plan_published(work, methods[options.method], options)
        if options.method != "ours"
        else (_plan_by_hand(work, options, scan_options) if options.span else _plan_searched(work, options, scan_options))
    )
    plan = repaired(work, plan, options)
    plan.save(path)
    finish(work, "plan", key, ["plan.json", *(Study.FILES[name][0] for name in BESIDE if work.study.has(name))])
    return plan


def _keep_edited(work: Work, key: str) -> None:
    """A plan.json that its owner edited is not written over unseen. Raises StudyError where the same is asked again."""
    path, kept = work.study.path("plan.json"), work.study.path("plan.edited.json")
    if read_marks(work.study)["plan"].key == key:
        raise StudyError(
            f"{path} was edited since it was planned. Cut it as it is now by `delayer cut {work.study.folder}`, or delete it to "
            "plan again."
        )
    path.replace(kept)
    work.reporter.line(f"The plan that was edited by hand lies in {kept} now.")


def _plan_of(work: Work, cut: Sequence[Edit], *, refit: str, rows: str) -> Plan:
    return Plan(
        model=work.name,
        model_hash=work.model_hash,
        data_hash=work.task.hash,
        num_blocks=work.chain.num_blocks,
        edits=tuple(sorted(cut, key=lambda e: e.spans)),
        refit=refit,
        rows=rows,
        seed=work.seed,
    )


def _plan_published(work: Work, method: Method, options: PlanOptions) -> Plan:
    """What a published method would cut; nothing is measured."""
    refit = "independent" if options.refit == "best" else options.refit
    if options.span:
        cut = plan_by_hand(work.chain, options.span, operator=method.operator).edits
    else:
        score = next(s for s in score_stage(work).scores if s.name == method.metric)
        if score.num_samples < method.num_samples:
            work.reporter.line(
                f"{method.title} reads {score.title} on {method.num_samples:,} samples; here it is read on "
                f"{score.num_samples:,}. Give --num-fit {method.num_samples} when scoring for the same."
            )
        cut = method.choose(work.chain, score, Budget.parse(options.remove))
    return _plan_of(work, cut, refit=refit, rows="each")


def _plan_by_hand(work: Work, options: PlanOptions, scan_options: ScanOptions) -> Plan:
    """Spans by hand; the operator and its ridge are chosen on held-out data where they were not given."""
    spans = [Span.parse(text) for text in options.span]
    if options.operator == "conv":
        return _refitted(work, _convolutions(work, spans, options), options)
    rows = Rows("each", scan_options.share)
    groups = [work.chain.ends(span) for span in spans]
    fit, heldout = (work.moments(split, groups, rows) for split in ("fit", "validation"))
    names = (options.operator,) if options.operator else operators_of(scan_options.operators)
    table = scan(work.chain, fit, heldout, macs=work.block_macs, operators=operators_of(",".join(names)), spans=spans)
    work.study.write("spans", table)
    measure = measuring(work, fit, options, ["hand", scan_options])
    chosen: list[Edit] = []
    measured = []
    for span in sorted(spans):
        rows_of = [
            r
            for r in table.spans
            if (r.start, r.stop) == (span.start, span.stop)
            and (options.rank is None or r.operator != "low_rank" or r.rank == options.rank)
        ]
        graded = [((*chosen, edit_of(row)), row) for row in rows_of]
        if not graded:
            chosen += plan_by_hand(work.chain, [span], operator=options.operator or "affine", rank=options.rank).edits
            continue
        ensure_judged((cut, measure(cut)) for cut, _ in graded)
        measured += [(cut, 0.0, measure(cut)) for cut, _ in graded]
        chosen = list(best_of([cut for cut, _ in graded], lambda cut: damage_of(measure(cut)), partial(takes, work.chain)))
    write_candidates(work, tuple(chosen), measured, measure.failed)
    return _refitted(work, tuple(chosen), options)


def _convolutions(work: Work, spans: Sequence[Span], options: PlanOptions) -> tuple[Edit, ...]:
    """One convolution for each span, with the activation that the span's last block ends in."""
    batch = work.task.batches("fit")[0]
    return tuple(
        edit
        for span in sorted(spans)
        for edit in plan_by_hand(
            work.chain, [span], operator="conv", kernel=options.kernel, tail=tail_of(work.chain, span.stop - 1, batch)
        ).edits
    )


def _plan_searched(work: Work, options: PlanOptions, scan_options: ScanOptions) -> Plan:
    """Spans that the real network judged, within a budget or within a drop that is allowed."""
    table = scan_stage(work, scan_options)
    budget = Budget.parse(options.remove) if options.remove else None
    fit = work.moments("fit", watched_groups(work, scan_options)[0], Rows("each", scan_options.share))
    if budget is None:  # a fall in points needs the same samples on both sides
        options = options.model_copy(update={"samples": work.task.batches("validation").num_samples})
    original = original_grade(work)
    work.reporter.line(f"Original on validation: {original.name} {original.value:.2f}{original.unit}")
    singles = sum(row.stop == row.start + 1 and row.operator in ("drop", "affine") for row in table.spans)
    with work.reporter.step("Judging cuts with the real network") as tick:
        measure = measuring(work, fit, options, [scan_options], tick=tick, expected=singles + KEEP + options.effort)
        if budget is None:
            cut, measured = deepest(
                work.chain,
                table,
                measure,
                original=original,
                max_drop=options.max_drop,
                effort=max(4, options.effort // 2),
                on_depth=partial(_say_depth, work, original),
            )
        else:
            cut, measured = _within(work, table, budget, measure, options, fit)
    if budget is not None:
        cut = best_of_finalists(work, measured, measure, fit, options, [scan_options], unit=budget.unit)
    cut = from_first(cut)
    write_candidates(work, cut, measured, measure.failed)
    return _refitted(work, cut, options)


def _say_depth(work: Work, original: Grade, depth: int, grade: Verdict, allowed: bool) -> None:
    work.reporter.line(f"{depth} blocks: validation falls by {drop_of(original, grade):.2f}{'' if allowed else ', too far'}")


def _within(
    work: Work, table: Scan, budget: Budget, measure: Measuring, options: PlanOptions, fit: Moments
) -> tuple[tuple[Edit, ...], list]:
    """The cut under a budget; a latency budget is measured afterwards and tightened until it holds."""
    totals = {"params": num_params(work.model), "macs": work.macs or 0}
    if budget.unit != "latency":
        return plan_spans(work.chain, table, budget, measure, totals=totals, effort=options.effort)
    with work.reporter.step("Timing each block"):
        kinds = {(row.operator, row.rank) for row in table.spans if row.operator != "drop"}
        profile = profile_blocks(work.chain, example_of(work.example, 1), operators=tuple(sorted(kinds, key=str)))
    totals["latency"] = profile.total_ms
    asked = budget
    for _ in range(4):
        cut, measured = plan_spans(
            work.chain,
            table,
            asked,
            measure,
            totals=totals,
            effort=options.effort,
            milliseconds=lambda row: saved_ms(profile, row),
        )
        small = apply(work.chain, _plan_of(work, cut, refit="independent", rows="each"), fit)
        [found] = compare_latency(work.model, small, example_of(work.example, 1), (1,), seconds=2.0)
        share = 1 - 1 / found.speedup
        work.reporter.line(f"Measured latency removed: {100 * share:.1f} % of {100 * budget.amount:.1f} % asked")
        if share >= budget.amount:
            return cut, measured
        asked = Budget("latency", min(0.98, asked.amount * min(1.5, budget.amount / max(share, 0.01))))
    work.warnings.append(f"{100 * budget.amount:.0f} % less latency was asked for; the plan measured {100 * share:.1f} %.")
    return cut, measured


def _refitted(work: Work, cut: tuple[Edit, ...], options: PlanOptions) -> Plan:
    """The plan with maps fitted as asked; "best" measures both ways on validation data where they can differ."""
    plans = {way: _plan_of(work, cut, refit=way, rows="each") for way in ("independent", "sequential")}
    if options.refit != "best":
        return plans[options.refit]
    if len(cut) < 2 or not any(edit.needs_stats for edit in cut):
        return plans["independent"]
    found: dict[str, Verdict] = {}
    for way, plan in plans.items():
        with work.reporter.step(f"Fitting maps, {way}"):
            found[way] = attempt(partial(_grade_of_plan, work), plan)
    ensure_judged((plans[way].edits, verdict) for way, verdict in found.items())
    return plans[from_first(best_of(found, lambda way: damage_of(found[way])))]


def _grade_of_plan(work: Work, plan: Plan) -> Grade:
    small = apply(work.chain, plan, data=work.task.batches("fit"))
    return evaluate(small, work.task, "validation", reference=work.reference, device=work.device)
