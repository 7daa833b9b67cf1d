"""A search over spans that go or that an operator replaces, judged by the real network."""

from functools import partial

from delayer.observing.processes import from_first
from delayer.observing.rows import Rows
from delayer.search.additive import Changes
from delayer.search.budget import Budget
from delayer.search.candidates import Found, candidates_of
from delayer.search.deepest import deepest, say_depth
from delayer.search.judging import Cut, Measuring, drop_of
from delayer.search.measuring import best_of_finalists, measuring, original_grade
from delayer.search.options import PlanOptions, ScanOptions
from delayer.search.planner import KEEP, NOMINATED
from delayer.search.predicting import residual_in
from delayer.search.preferring import prefers, rival_of
from delayer.search.scan import watched_groups
from delayer.search.subject import Subject
from delayer.search.within_budget import within
from delayer.study import Grade


def replaced(subject: Subject, options: PlanOptions, scan_options: ScanOptions) -> Found:
    """Spans that the real network judged, within a budget or within a drop that is allowed."""
    table = subject.scanned(scan_options)
    budget = Budget.parse(options.remove) if options.remove else None
    fit = subject.moments("fit", watched_groups(subject, scan_options)[0], Rows("each", scan_options.share))
    if budget is None:  # a fall in points needs the same samples on both sides
        options = options.model_copy(update={"samples": subject.task.batches("validation").num_samples})
    original = original_grade(subject)
    subject.reporter.line(f"Original on validation: {original.name} {original.value:.2f}{original.unit}")
    singles = sum(row.stop == row.start + 1 and row.operator in ("drop", "affine") for row in table.spans)
    with subject.reporter.step("Judging cuts with the real network") as tick:
        expected = singles + KEEP + NOMINATED + options.effort + prefers(options) * (KEEP + options.effort // 3)
        changes = Changes(subject.reference)
        measure = measuring(subject, fit, options, [scan_options], tick=tick, expected=expected, changes=changes)
        if budget is None:
            cut, measured = deepest(
                subject.chain,
                table,
                measure,
                original=original,
                max_drop=options.max_drop or 0.0,
                effort=max(4, options.effort // 2),
                changes=changes,
                on_depth=partial(say_depth, subject, original),
            )
        else:
            cut, measured = within(subject, table, budget, measure, options, fit, changes)
    if budget is not None:
        cut = best_of_finalists(
            subject, measured, measure, fit, options, [scan_options], unit=budget.unit, missed=residual_in(table)
        )
    cut, rival = from_first(cut), None
    if prefers(options):
        rival = rival_of(subject, cut, measured, measure, partial(_as_deep, subject, options, cut, original, measure))
    return Found(cut, candidates_of(subject, cut, measured, measure.failed), rival=from_first(rival))


def _as_deep(subject: Subject, options: PlanOptions, best: Cut, original: Grade, measure: Measuring, cut: Cut) -> bool:
    """Whether a cut keeps to a drop that is allowed, and takes as many blocks as the best that does."""
    if options.max_drop is None:
        return True
    num = [
        sum(subject.chain.weight(b) for edit in one for s in edit.removed for b in range(s.start, s.stop)) for one in (cut, best)
    ]
    return num[0] >= num[1] and drop_of(original, measure(cut)) <= options.max_drop
