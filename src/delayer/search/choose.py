"""What to cut from a network, chosen on validation data: the whole search, without a study folder."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from delayer.cutting import Plan, apply
from delayer.cutting.by_hand import edit_with
from delayer.edits import Edit
from delayer.errors import BudgetError, ModelError
from delayer.fitting.evidence import Evidence
from delayer.fitting.operators import Operator, operators, settings_of
from delayer.measure import compare_latency, num_params
from delayer.measure.profile import profile_blocks, saved_ms
from delayer.network.calling import example_of
from delayer.network.chain import Chain, Span
from delayer.observing.one_pass import device_of
from delayer.observing.processes import from_first
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.progress import Reporter
from delayer.search.additive import Changes
from delayer.search.asked import check_asked
from delayer.search.budget import Budget
from delayer.search.dropping import drops_alone, drops_of
from delayer.search.judging import MeasuredCut, Measuring, Verdict, attempt, damage_of, drop_of, ensure_judged, takes
from delayer.search.measuring import best_of_finalists, candidates_of, measuring, original_grade
from delayer.search.methods import methods
from delayer.search.options import PlanOptions, ScanOptions, operators_of
from delayer.search.planner import KEEP, NOMINATED, deepest, edit_of, measure_singles, operator_in, plan_spans
from delayer.search.preferring import opens_in, preferred
from delayer.search.repair import tail_of
from delayer.search.repairing import grade_of_plan, repaired, settled
from delayer.search.scan import scan, watched_groups
from delayer.search.subject import Subject
from delayer.search.ties import best_of
from delayer.study import Candidates, Grade, Scan, first_fault
from delayer.tasks import Task
from delayer.tasks.splits import shortened

SINGLE_TOKENS, SEARCH_TOKENS = 2048, 4096
"""Tokens of text that single blocks, which only nominate, and sets of them are judged on; the best few on all of validation."""
FEW = 1
"""How many of the best predicted sets are judged first, where each is repaired for it."""


@dataclass(frozen=True)
class Choice:
    """A plan, and what led to it.

    candidates: the cuts that were measured. spans: the operators that were judged on spans given by hand.
    """

    plan: Plan
    candidates: Candidates | None = None
    spans: Scan | None = None


def plan(
    chain: Chain,
    task: Task,
    *,
    remove: str | None = None,
    max_drop: float | None = None,
    spans: Iterable[Span | str] | str = (),
    method: str = "ours",
    operator: str | Operator | None = None,
    operators: Iterable[str] | str | None = None,
    refit: Literal["best", "independent", "sequential"] = "best",
    repair: Literal["auto", "none", "resolve", "norms", "best"] = "auto",
    repair_samples: int = 256,
    prefer: Literal["ordinary", "accuracy"] = "ordinary",
    samples: int = 128,
    effort: int = 24,
    share: float = 0.25,
    memory: float = 4.0,
    seed: int = 0,
    name: str = "",
    reporter: Reporter | None = None,
) -> Plan:
    """What to cut from a network, chosen on the task's validation data; nothing is written, and the network stays as it is.

    chain: from `chain_of`. task: from `open_task` or `task_of`.
    Exactly one of remove ("blocks=3", "params=25%", "macs=25%", "latency=20%"), max_drop (points of the validation grade) and
    spans (by hand) says how much.
    method: "ours", searched and measured, or a published one. operator: what stands in spans by hand, a name or an operator with
    options of its own, such as `LowRank(rank=32)`; chosen on held-out data by default. operators: what a search may put in, by
    default `scanned_operators`.
    refit, repair, repair_samples, prefer, samples, effort: see `PlanOptions`; share, memory (GiB): see `ScanOptions`.
    Raises BudgetError, SpanError, PlanError or ModelError for what cannot be done, before any work where that can be known.
    """
    by_hand = (spans,) if isinstance(spans, str) else tuple(map(str, spans))
    names = operators if operators is None or isinstance(operators, str) else ",".join(operators) or ","
    own = operator.model_dump(exclude_unset=True) if isinstance(operator, Operator) else {}
    try:
        options = PlanOptions(
            remove=remove,
            max_drop=max_drop,
            span=by_hand,
            method=method,
            operator=operator.name if isinstance(operator, Operator) else operator,
            operator_options=own,
            refit=refit,
            repair=repair,
            repair_samples=repair_samples,
            prefer=prefer,
            samples=samples,
            effort=effort,
        )
        scan_options = ScanOptions(share=share, memory=memory, operators=names or "")
    except ValidationError as error:
        raise BudgetError(f"That cannot be planned: {first_fault(error)}. See help(delayer.plan).") from error
    subject = Subject(
        name=name or type(chain.model).__name__,
        chain=chain,
        task=task,
        device=device_of(chain.model),
        seed=seed,
        reporter=reporter or Reporter(),
    )
    return choose(subject, options, scan_options).plan


def choose(subject: Subject, options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> Choice:
    """What to cut from a subject. Raises what `plan` raises."""
    check_asked(subject, options, scan_options)
    options = settled(subject, options)
    search = _Search(subject, options, scan_options)
    if options.method != "ours":
        cut = methods[options.method].cut(subject, options)
    elif options.span:
        cut = search.by_hand([Span.parse(text) for text in options.span])
    else:
        cut = search.searched()
    chosen = repaired(subject, search.refitted(cut), options)
    subject.keep(chosen)
    return Choice(chosen, search.candidates, search.spans)


@dataclass
class _Search:
    """One search: what was asked, and the records that it leaves."""

    subject: Subject
    options: PlanOptions
    scan_options: ScanOptions
    candidates: Candidates | None = None
    spans: Scan | None = None
    rows: Rows = field(init=False)

    def __post_init__(self):
        self.rows = Rows("each", self.scan_options.share)

    def plan_of(self, cut: Sequence[Edit], *, refit: Literal["independent", "sequential"]) -> Plan:
        """The plan that a cut is written down as."""
        subject = self.subject
        return Plan(
            model=subject.name,
            model_hash=subject.model_hash,
            data_hash=subject.task.hash,
            num_blocks=subject.chain.num_blocks,
            edits=tuple(sorted(cut, key=lambda e: e.spans)),
            refit=refit,
            rows="each",
            seed=subject.seed,
        )

    def by_hand(self, spans: Sequence[Span]) -> tuple[Edit, ...]:
        """Spans by hand; the operator and its options are chosen on held-out data where they were not given."""
        subject, options = self.subject, self.options
        names = (options.operator,) if options.operator else operators_of(self.scan_options.operators)
        if operators[names[0]].reads == "patches":
            return self._by_patches(names[0], spans)
        groups = [subject.chain.ends(span) for span in spans]
        fit, heldout = (subject.moments(split, groups, self.rows) for split in ("fit", "validation"))
        measure = measuring(subject, fit, options, ["hand", self.scan_options])
        chosen: tuple[Edit, ...] = ()
        tables, measured = [], []
        for span in sorted(spans):
            width = subject.chain.check(span).width
            offered: list[Operator] = [one for name in names for one in settings_of(name, width, options.operator_options)]
            table = scan(subject.chain, fit, heldout, macs=subject.block_macs, operators=offered, spans=[span])
            tables.append(table)
            # What no map can be fitted to is refused when it is fitted, with the reason.
            edits = [edit_of(row) for row in table.spans] or [edit_with(offered[0], span)]
            graded: list[tuple[Edit, ...]] = [(*chosen, edit) for edit in edits]
            ensure_judged((cut, measure(cut)) for cut in graded)
            measured += [(cut, 0.0, measure(cut)) for cut in graded]
            chosen = best_of(graded, lambda cut: damage_of(measure(cut)), partial(takes, subject.chain))
        if self._prefers and not options.operator:
            chosen = preferred(subject, chosen, measured, measure, fit, lambda cut: len(cut) == len(chosen))
        self.spans = tables[0].model_copy(
            update={
                "spans": tuple(row for table in tables for row in table.spans),
                "failed": tuple(reason for table in tables for reason in table.failed),
            }
        )
        self.candidates = candidates_of(subject, chosen, measured, measure.failed)
        return chosen

    def _by_patches(self, name: str, spans: Sequence[Span]) -> tuple[Edit, ...]:
        """One operator that reads patches for each span, with the activation that the span's last block ends in."""
        chain, batch = self.subject.chain, self.subject.task.batches("fit")[0]
        found = []
        for span in sorted(spans):
            one = settings_of(name, chain.check(span).width, self.options.operator_options)[0]
            found.append(edit_with(one.suited(tail_of(chain, span.stop - 1, batch)), span))
        return tuple(found)

    def searched(self) -> tuple[Edit, ...]:
        """Spans that the real network judged, within a budget or within a drop that is allowed."""
        if drops_alone(self.subject, self.options, self.scan_options):
            return self.dropped()
        subject, options = self.subject, self.options
        table = subject.scanned(self.scan_options)
        budget = Budget.parse(options.remove) if options.remove else None
        fit = subject.moments("fit", watched_groups(subject, self.scan_options)[0], self.rows)
        if budget is None:  # a fall in points needs the same samples on both sides
            options = options.model_copy(update={"samples": subject.task.batches("validation").num_samples})
        original = original_grade(subject)
        subject.reporter.line(f"Original on validation: {original.name} {original.value:.2f}{original.unit}")
        singles = sum(row.stop == row.start + 1 and row.operator in ("drop", "affine") for row in table.spans)
        with subject.reporter.step("Judging cuts with the real network") as tick:
            expected = singles + KEEP + NOMINATED + options.effort + self._prefers * (KEEP + options.effort // 3)
            changes = Changes(subject.reference)
            measure = measuring(subject, fit, options, [self.scan_options], tick=tick, expected=expected, changes=changes)
            if budget is None:
                cut, measured = deepest(
                    subject.chain,
                    table,
                    measure,
                    original=original,
                    max_drop=options.max_drop or 0.0,
                    effort=max(4, options.effort // 2),
                    changes=changes,
                    on_depth=partial(_say_depth, subject, original),
                )
            else:
                cut, measured = self._within(table, budget, measure, fit, changes)
        if budget is not None:
            cut = best_of_finalists(subject, measured, measure, fit, options, [self.scan_options], unit=budget.unit)
        if self._prefers:
            cut = preferred(subject, cut, measured, measure, fit, partial(self._as_deep, cut, original, measure))
        cut = from_first(cut)
        self.candidates = candidates_of(subject, cut, measured, measure.failed)
        return cut

    def dropped(self) -> tuple[Edit, ...]:
        """Blocks that go, each set judged after a quick repair of those that stay; the first nominations need none."""
        subject, options = self.subject, self.options
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
                    on_depth=partial(_say_depth, subject, original),
                )
            else:
                cut, measured = self._within(table, budget, measure, None, changes, effort=effort, keep=FEW, singles=singles)
                cut = best_of_finalists(subject, measured, measure, None, options, ["drops"], unit=budget.unit)
        cut = from_first(cut)
        self.candidates = candidates_of(subject, cut, measured, measure.failed)
        return cut

    @property
    def _prefers(self) -> bool:
        """Whether a cut that its own library opens wins over one that is as good; no cut is compared after repair."""
        return self.options.prefer == "ordinary" and self.options.repair in ("none", "norms")

    def _as_deep(self, best: tuple[Edit, ...], original: Grade, measure: Measuring, cut: tuple[Edit, ...]) -> bool:
        """Whether a cut keeps to a drop that is allowed, and takes as many blocks as the best that does."""
        if self.options.max_drop is None:
            return True
        num = [
            sum(self.subject.chain.weight(b) for edit in one for s in edit.removed for b in range(s.start, s.stop))
            for one in (cut, best)
        ]
        return num[0] >= num[1] and drop_of(original, measure(cut)) <= self.options.max_drop

    def _within(
        self, table: Scan, budget: Budget, measure: Measuring, fit: Moments | None, changes: Changes, **how: Any
    ) -> tuple[tuple[Edit, ...], list]:
        """The cut under a budget; a latency budget is measured afterwards and tightened until it holds.

        how: what else `plan_spans` is told.
        """
        subject = self.subject
        how = {"effort": self.options.effort, "changes": changes} | how
        totals = {"params": float(num_params(subject.model)), "macs": float(subject.macs or 0)}
        if budget.unit != "latency":
            cut, measured = plan_spans(subject.chain, table, budget, measure, totals=totals, **how)
            return cut, measured + self._dropped(table, budget, measure, totals, cut)
        one = example_of(subject.example, 1)
        with subject.reporter.step("Timing each block"):
            kinds = {one for one in map(operator_in, table.spans) if not one.removes}
            profile = profile_blocks(subject.chain, one, operators=sorted(kinds, key=lambda operator: operator.title))
        totals["latency"] = profile.total_ms
        asked, share = budget, 0.0
        cut: tuple[Edit, ...] = ()
        measured: list[Any] = []
        for _ in range(4):
            cut, measured = plan_spans(
                subject.chain, table, asked, measure, totals=totals, milliseconds=partial(saved_ms, profile), **how
            )
            small = apply(subject.chain, self.plan_of(cut, refit="independent"), fit or Evidence())
            [found] = compare_latency(subject.model, small, one, (1,), seconds=2.0)
            share = 1 - 1 / found.speedup
            subject.reporter.line(f"Measured latency removed: {100 * share:.1f} % of {100 * budget.amount:.1f} % asked")
            if share >= budget.amount:
                return cut, measured
            asked = Budget("latency", min(0.98, asked.amount * min(1.5, budget.amount / max(share, 0.01))))
        subject.warnings.append(f"{100 * budget.amount:.0f} % less latency was asked for; the plan measured {100 * share:.1f} %.")
        return cut, measured

    def _dropped(
        self, table: Scan, budget: Budget, measure: Measuring, totals: dict[str, float], best: tuple[Edit, ...]
    ) -> list[MeasuredCut]:
        """Sets of blocks that simply go, measured besides, where the best cut leaves something that its library does not open."""
        drops = table.model_copy(update={"spans": tuple(row for row in table.spans if operator_in(row).removes)})
        if not self._prefers or not drops.spans or opens_in(self.subject, best)[0]:
            return []
        with suppress(BudgetError, ModelError):
            return plan_spans(self.subject.chain, drops, budget, measure, totals=totals, effort=self.options.effort // 3)[1]
        return []

    def refitted(self, cut: tuple[Edit, ...]) -> Plan:
        """The plan with maps fitted as asked; "best" measures both ways on validation data where they can differ.

        Published methods fit on the original's stream.
        """
        subject, asked = self.subject, self.options.refit
        plans = {way: self.plan_of(cut, refit=way) for way in ("independent", "sequential")}
        if asked != "best":
            return plans[asked]
        if self.options.method != "ours" or len(cut) < 2 or not any(edit.needs_stats for edit in cut):
            return plans["independent"]
        found: dict[str, Verdict] = {}
        for way, one in plans.items():
            with subject.reporter.step(f"Fitting maps, {way}") as tick:
                found[way] = attempt(partial(grade_of_plan, subject, tick), one)
            subject.keep(plans[min(found, key=lambda other: damage_of(found[other]))])
        ensure_judged((plans[way].edits, verdict) for way, verdict in found.items())
        return plans[from_first(best_of(found, lambda way: damage_of(found[way])))]


def _say_depth(subject: Subject, original: Grade, depth: int, grade: Verdict, allowed: bool) -> None:
    subject.reporter.line(f"{depth} blocks: validation falls by {drop_of(original, grade):.2f}{'' if allowed else ', too far'}")
