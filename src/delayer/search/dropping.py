"""A search over blocks that simply go: for networks whose other blocks are solved anew afterwards, so that no map is wanted."""

from functools import partial

from delayer.fitting.operators.drop import Drop
from delayer.observing.processes import from_first
from delayer.search.additive import Changes
from delayer.search.budget import Budget
from delayer.search.candidates import Found, candidates_of
from delayer.search.deepest import deepest, say_depth
from delayer.search.measuring import best_of_finalists, measuring, original_grade
from delayer.search.options import PlanOptions, ScanOptions
from delayer.search.planner import NOMINATED
from delayer.search.predicting import measure_singles, residual_in
from delayer.search.subject import Subject
from delayer.search.within_budget import within
from delayer.study import Scan, SpanDamage
from delayer.tasks.splits import shortened

SINGLE_TOKENS, SEARCH_TOKENS = 2048, 4096
"""Tokens of text that single blocks, which only nominate, and sets of them are judged on; the best few on all of validation."""
FEW = 1
"""How many of the best predicted sets are judged first, where each is repaired for it."""


def drops_alone(subject: Subject, options: PlanOptions, scan_options: ScanOptions) -> bool:
    """Whether a search need not look at maps: of a decoder whose blocks are solved anew, where nobody names operators.

    A block that stays, solved anew, does what a map would, is nearer to the original, and costs nothing.
    options: with the repair that was settled on.
    """
    solves = options.repair in ("resolve", "best") and subject.task.kind == "causal-lm" and bool(subject.resolvable)
    return solves and not scan_options.operators and options.method == "ours" and not options.span


def dropped(subject: Subject, options: PlanOptions) -> Found:
    """Blocks that go, each set judged after a quick repair of those that stay; the first nominations need none."""
    fewer, few = (shortened(subject.validation(), options.samples, most) for most in (SINGLE_TOKENS, SEARCH_TOKENS))
    budget = Budget.parse(options.remove) if options.remove else None
    # A fall in points needs the same samples on both sides.
    options = options.model_copy(update={"samples": few.num_samples if budget else subject.validation().num_samples})
    original, table, changes = original_grade(subject), drops_of(subject), Changes(subject.reference)
    subject.reporter.line(f"Original on validation: {original.name} {original.value:.2f}{original.unit}")
    with subject.reporter.step("Judging single blocks") as tick:
        alone = sum(row.stop == row.start + 1 for row in table.spans)
        plain = options.model_copy(update={"repair": "none", "samples": fewer.num_samples})
        measure = measuring(subject, None, plain, ["drops"], tick=tick, expected=alone, changes=changes)
        singles = measure_singles(subject.chain, table, measure, ())
    effort = options.effort // 6
    with subject.reporter.step("Judging sets of blocks, each after a quick repair") as tick:
        measure = measuring(subject, None, options, ["drops"], tick=tick, expected=3 * FEW + NOMINATED + effort)
        if budget is None:
            cut, measured = deepest(
                subject.chain,
                table,
                measure,
                original=original,
                max_drop=options.max_drop or 0.0,
                effort=effort,
                keep=FEW,
                singles=singles,
                changes=changes,
                on_depth=partial(say_depth, subject, original),
            )
        else:
            cut, measured = within(
                subject, table, budget, measure, options, None, changes, effort=effort, keep=FEW, singles=singles
            )
            cut = best_of_finalists(
                subject, measured, measure, None, options, ["drops"], unit=budget.unit, missed=residual_in(table)
            )
    cut = from_first(cut)
    return Found(cut, candidates_of(subject, cut, measured, measure.failed))


def drops_of(subject: Subject) -> Scan:
    """Every block that may go, and how far it moves the stream, from the score of Block Redundancy alone.

    Longer spans are sets of these. The mean squared distance stands where a scan has a held-out residual: within one network it
    compares blocks in the same way.
    """
    chain, macs, score = subject.chain, subject.block_macs, subject.scored("block_redundancy")
    rows = []
    for span in sorted(span for span in chain.spans() if len(span) == 1):
        start, stop = chain.ends(span)
        moved, blocks = score.values[start][stop], range(span.start, span.stop)
        if moved is None:
            continue
        rows.append(
            SpanDamage(
                start=span.start,
                stop=span.stop,
                operator=Drop.name,
                options={},
                title=Drop().title,
                residual=-float(moved),
                residual_fit=-float(moved),
                params_saved=sum(p.numel() for b in blocks for p in chain.module(b).parameters()),
                macs_saved=sum(macs[b] for b in blocks),
                blocks_saved=sum(chain.weight(b) for b in blocks),
            )
        )
    return Scan(rows=score.rows, num_rows_fit=score.num_samples, num_rows_heldout=0, spans=tuple(rows), failed=())
