"""Choosing what to cut: predicted damage of every span, exact search under a budget, then the real network decides.

Scores of single layers do not add up (the same eight layers of one decoder leave 29.5 % or 50.8 % of an exam, by
which set is taken), so predictions only nominate. What is chosen was measured, as a set, on validation data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from delayer.cutting.by_hand import edit_with
from delayer.edits import Edit
from delayer.errors import BudgetError
from delayer.fitting.operators import Operator, operator_of
from delayer.network.chain import Chain, Span
from delayer.search.additive import Changes, nominated
from delayer.search.budget import Budget
from delayer.search.exact_search import Candidate, best_spans
from delayer.search.judging import Cut, Failure, MeasuredCut, Measuring, Verdict, damage_of, drop_of, ensure_judged, takes
from delayer.search.local_search import refine
from delayer.search.ties import best_of, noise_of
from delayer.study import Grade, Measured, Scan, SpanDamage

NOMINATED = 8
"""How many sets of singles whose changes add up to least it judges as well."""
KEEP = 6
"""How many of the best predicted sets the real network judges first."""


def operator_in(row: SpanDamage) -> Operator:
    """The operator of a row of the scan, with its options."""
    return operator_of(row.operator, row.options)


def edit_of(damage: SpanDamage) -> Edit:
    """The edit that a row of the scan stands for."""
    return edit_with(operator_in(damage), Span(damage.start, damage.stop))


def predicted_damage(scan: Scan, singles: Mapping[tuple[int, str], float]) -> list[float]:
    """The divergence that each row of the scan predicts, in the unit of the measured singles.

    singles: measured divergence for (block, "drop") and, where it was measured, (block, operator); where nothing is to be
    dropped, the scan's first operator stands for it. What failed, infinity, is inherited by a row of its own, while longer
    spans reckon with the worst of the others.
    A span costs what its blocks cost one by one, times how its held-out residual compares with theirs, times how far
    that operator's measured singles lie from the same rule. What rounding leaves unsure is nothing, and more than five
    digits are not kept, so that equal damages are equal numbers.
    """
    worst = max((value for value in singles.values() if math.isfinite(value)), default=0.0)
    known = {key: min(value, worst) if value > noise_of(0.0) else 0.0 for key, value in singles.items()}
    simplest = _simplest(scan)
    alone = {(s.start, s.operator): s.residual for s in scan.spans if s.stop == s.start + 1}
    found = []
    for row in scan.spans:
        blocks = range(row.start, row.stop)
        if len(blocks) == 1 and singles.get((row.start, row.operator)) == math.inf:
            found.append(math.inf)
            continue
        price = sum(known.get((b, simplest), 0.0) for b in blocks)
        base = sum(alone.get((b, simplest), 0.0) for b in blocks)
        value = price * row.residual / base if base > 0 else price
        factors = [
            known[b, row.operator] / (known[b, simplest] * alone[b, row.operator] / alone[b, simplest])
            for b in blocks
            if (b, row.operator) in known
            and known.get((b, simplest), 0) > 0
            and alone.get((b, simplest), 0) > 0
            and alone.get((b, row.operator), 0) > 0
        ]
        if factors:
            value *= sorted(factors)[len(factors) // 2]
        found.append(float(f"{value:.4e}"))
    return found


def _simplest(scan: Scan) -> str:
    """The operator that blocks are priced by: dropping, or the first one where that is not allowed."""
    return next((row.operator for row in scan.spans if row.operator == "drop"), scan.spans[0].operator if scan.spans else "drop")


def measure_singles(chain: Chain, scan: Scan, measure: Measuring, operators: Sequence[str]) -> dict[tuple[int, str], float]:
    """The measured divergence of each block alone, under dropping and under each of the operators; infinity for failures.

    Raises ModelError where every one of them failed.
    """
    judged = {}
    for row in scan.spans:
        if row.stop == row.start + 1 and chain.weight(row.start) and row.operator in (_simplest(scan), *operators):
            key = (row.start, row.operator)
            if key not in judged:
                cut = (edit_of(row),)
                judged[key] = cut, measure(cut)
    ensure_judged(judged.values())
    return {key: damage_of(found) for key, (_, found) in judged.items()}


def _apart(candidates: Sequence[Candidate], target: float, num_blocks: int, keep: int) -> list[list[Candidate]]:
    """The best predicted sets of single blocks that do not touch; none where they cannot save the target.

    Their damage was measured block by block and nearly adds up, whereas what is predicted for long spans is a guess.
    """
    found = []
    for parity in (0, 1):  # blocks of one parity never touch
        singles = [c for c in candidates if c.stop == c.start + 1 and c.start % 2 == parity]
        with suppress(BudgetError):
            found += best_spans(singles, target, num_blocks=num_blocks, keep=max(1, keep // 2))
    return found


def saving(row: SpanDamage, unit: str, milliseconds: Callable[[SpanDamage], float] | None = None) -> float:
    """What a row saves in a budget's unit."""
    if unit == "latency":
        if milliseconds is None:
            raise BudgetError("A latency budget needs measured milliseconds; measure them first.")
        return milliseconds(row)
    return float({"blocks": row.blocks_saved, "params": row.params_saved, "macs": row.macs_saved}[unit] or 0)


def plan_spans(
    chain: Chain,
    scan: Scan,
    budget: Budget,
    measure: Measuring,
    *,
    totals: Mapping[str, float],
    effort: int = 24,
    keep: int = KEEP,
    milliseconds: Callable[[SpanDamage], float] | None = None,
    singles: Mapping[tuple[int, str], float] | None = None,
    changes: Changes | None = None,
) -> tuple[Cut, list[MeasuredCut]]:
    """The edits that meet a budget and move the network's output least, and all cuts that were measured for it.

    totals: the network's "params", "macs" and "latency", for budgets in shares.
    effort: how many sets the real network may judge after the single blocks.
    keep: how many of the best predicted sets are judged first.
    changes: what single cuts were seen to do to the answers; sets whose changes add up to little are judged first, too.
    Of cuts that are equally good the one that takes least away wins, then the one that puts least in its place.
    Raises BudgetError, saying what could be met, when the budget cannot be, ModelError when no cut could be judged.
    """
    if singles is None:
        singles = measure_singles(chain, scan, measure, ("affine",))
    cut, cuts = _searched(chain, scan, budget, measure, totals, effort, keep, milliseconds, singles, changes)
    ensure_judged((cut, found) for cut, _, found in cuts)
    return cut, cuts


def _searched(
    chain: Chain,
    scan: Scan,
    budget: Budget,
    measure: Measuring,
    totals: Mapping[str, float],
    effort: int,
    keep: int,
    milliseconds: Callable[[SpanDamage], float] | None,
    singles: Mapping[tuple[int, str], float],
    changes: Changes | None,
) -> tuple[Cut, list[MeasuredCut]]:
    """What `plan_spans` finds, also where every cut failed."""
    damages = predicted_damage(scan, singles)
    rows = {}
    for number, (row, damage) in enumerate(zip(scan.spans, damages, strict=True)):
        saved = saving(row, budget.unit, milliseconds)
        if saved > 0 and math.isfinite(damage):
            added = edit_of(row).num_params(chain)
            removed = row.blocks_saved if budget.unit == "blocks" else row.params_saved + added
            candidate = Candidate(row.start, row.stop, row.title or row.operator, damage, saved, float(removed), float(added))
            rows[candidate] = scan.spans[number]
    target = budget.target(lambda: totals[budget.unit])
    try:
        best = best_spans(list(rows), target, num_blocks=chain.num_blocks, keep=keep)
    except BudgetError as error:
        most = error.most or 0.0
        what = f"{most:g} blocks" if budget.unit == "blocks" else f"{100 * most / totals[budget.unit]:.1f} % of {budget.unit}"
        broken = sum(value == math.inf for value in singles.values())
        but = f", since {broken} of its single cuts could not be judged" if broken else ""
        raise BudgetError(
            f"Removing {budget} cannot be met: at most {what} can go from this network ({chain!r}){but}. Ask for less.", most=most
        ) from error
    by_edit = {edit_of(row): candidate for candidate, row in rows.items()}
    given: list[tuple[Candidate, ...]] = []
    if changes is not None and changes.kept:
        cuts_ = nominated(changes, lambda edit: by_edit[edit].saved if edit in by_edit else 0.0, target, NOMINATED)
        given = [tuple(by_edit[edit] for edit in cut) for cut in cuts_]

    def judge(chosen: tuple[Candidate, ...]) -> float:
        return damage_of(measure(tuple(edit_of(rows[c]) for c in chosen)))

    starts_ = [*best, *_apart(list(rows), target, chain.num_blocks, keep), *given]
    winner, measured = refine(starts_, list(rows), target, judge, effort=len(starts_) + effort)
    cuts = []
    for chosen, _ in measured:
        cut = tuple(edit_of(rows[c]) for c in chosen)
        cuts.append((cut, sum(c.damage for c in chosen), measure(cut)))
    return tuple(edit_of(rows[c]) for c in winner), cuts


def deepest(
    chain: Chain,
    scan: Scan,
    measure: Measuring,
    *,
    original: Grade,
    max_drop: float,
    effort: int = 12,
    keep: int = KEEP,
    singles: Mapping[tuple[int, str], float] | None = None,
    changes: Changes | None = None,
    on_depth: Callable[[int, Verdict, bool], None] | None = None,
) -> tuple[Cut, list[MeasuredCut]]:
    """The cut of most blocks whose validation grade falls by at most `max_drop`, and all cuts measured on the way.

    max_drop: points of the grade (percent of accuracy, agreement, cosine, R² or relative error); for perplexity, percent of the
    original's.
    Blocks are added one by one, each depth starting from the last; two depths in a row that fall too far end it.
    Raises BudgetError when not even one block can go.
    """
    if singles is None:
        singles = measure_singles(chain, scan, measure, ("affine",))
    most = sum(chain.weight(b) for segment in chain.segments for b in range(segment.start, segment.stop))
    seen: list[MeasuredCut] = []
    best: Cut = ()
    failures = 0
    for depth in range(1, most + 1):
        try:
            cut, measured = _searched(chain, scan, Budget("blocks", depth), measure, {}, effort, keep, None, singles, changes)
        except BudgetError:  # no deeper cut is left, since some cannot be judged
            if depth == 1:
                raise
            break
        seen += measured
        allowed = [c for c, _, g in measured if drop_of(original, g) <= max_drop]
        if allowed:
            best = cut if cut in allowed else best_of(allowed, lambda c: damage_of(measure(c)), partial(takes, chain))
        failures = 0 if allowed else failures + 1
        if on_depth:
            on_depth(depth, measure(best if allowed else cut), bool(allowed))
        if failures == 2:
            break
    if not best:
        least = min((drop_of(original, g) for _, _, g in seen), default=math.inf)
        raise BudgetError(
            f"No block can go within --max-drop {max_drop:g}: the best cut of one block costs {least:.2f}. "
            f"Allow at least {least:.2f}, or give `tune` a chance after --remove blocks=1."
        )
    return best, seen


def measured_record(
    cut: Cut, predicted: float, grade: Verdict, *, params: int, macs: int | None, opens_in: str, chosen: bool
) -> Measured:
    """A measured cut as the study keeps it; one that failed, with its reason and without numbers."""
    edits = tuple(edit.info() for edit in cut)
    if isinstance(grade, Failure):
        return Measured(
            edits=edits,
            predicted=predicted,
            kl=None,
            grade=None,
            params=params,
            macs=macs,
            opens_in=opens_in,
            chosen=chosen,
            failed=grade.reason,
        )
    shares = grade.agreement is None and grade.error is None and grade.cosine is None  # then the grade itself is one
    return Measured(
        edits=edits,
        predicted=predicted,
        kl=grade.kl,
        error=grade.error,
        correlation=grade.correlation,
        pair_correlation=grade.pair_correlation,
        agreement=grade.value if shares else grade.agreement,
        grade=grade.value,
        params=params,
        macs=macs,
        opens_in=opens_in,
        chosen=chosen,
    )
