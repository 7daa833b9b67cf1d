"""Spans given by hand, and the operator for each of them, chosen on held-out data where none was given."""

from collections.abc import Sequence
from functools import partial

from delayer.cutting.by_hand import edit_with
from delayer.fitting.operators import Operator, operators, settings_of
from delayer.network.chain import Span
from delayer.observing.rows import Rows
from delayer.search.candidates import Found, candidates_of
from delayer.search.judging import Cut, damage_of, ensure_judged, takes
from delayer.search.measuring import measuring
from delayer.search.options import PlanOptions, ScanOptions, operators_of
from delayer.search.predicting import edit_of
from delayer.search.preferring import prefers, rival_of
from delayer.search.repair import tail_of
from delayer.search.scan import scan
from delayer.search.subject import Subject
from delayer.search.ties import best_of


def by_hand(subject: Subject, spans: Sequence[Span], options: PlanOptions, scan_options: ScanOptions) -> Found:
    """Spans by hand; the operator and its options are chosen on held-out data where they were not given."""
    names = (options.operator,) if options.operator else operators_of(scan_options.operators)
    if operators[names[0]].reads == "patches":
        return Found(_by_patches(subject, names[0], spans, options))
    groups = [subject.chain.ends(span) for span in spans]
    fit, heldout = (subject.moments(split, groups, Rows("each", scan_options.share)) for split in ("fit", "validation"))
    measure = measuring(subject, fit, options, ["hand", scan_options])
    chosen: Cut = ()
    tables, measured = [], []
    for span in sorted(spans):
        width = subject.chain.check(span).width
        offered: list[Operator] = [one for name in names for one in settings_of(name, width, options.operator_options)]
        table = scan(subject.chain, fit, heldout, macs=subject.block_macs, operators=offered, spans=[span])
        tables.append(table)
        # What no map can be fitted to is refused when it is fitted, with the reason.
        edits = [edit_of(row) for row in table.spans] or [edit_with(offered[0], span)]
        graded: list[Cut] = [(*chosen, edit) for edit in edits]
        ensure_judged((cut, measure(cut)) for cut in graded)
        measured += [(cut, 0.0, measure(cut)) for cut in graded]
        chosen = best_of(graded, lambda cut: damage_of(measure(cut)), partial(takes, subject.chain))
    rival = None
    if prefers(options) and not options.operator:
        rival = rival_of(subject, chosen, measured, measure, lambda cut: len(cut) == len(chosen))
    judged = tables[0].model_copy(
        update={
            "spans": tuple(row for table in tables for row in table.spans),
            "failed": tuple(reason for table in tables for reason in table.failed),
        }
    )
    return Found(chosen, candidates_of(subject, chosen, measured, measure.failed), judged, rival)


def _by_patches(subject: Subject, name: str, spans: Sequence[Span], options: PlanOptions) -> Cut:
    """One operator that reads patches for each span, with the activation that the span's last block ends in."""
    chain, batch = subject.chain, subject.task.batches("fit")[0]
    found = []
    for span in sorted(spans):
        one = settings_of(name, chain.check(span).width, options.operator_options)[0]
        found.append(edit_with(one.suited(tail_of(chain, span.stop - 1, batch)), span))
    return tuple(found)
