"""Choosing what to cut under a budget: predictions nominate by exact search, then the real network decides.

What is chosen was measured, as a set, on validation data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from delayer.errors import BudgetError
from delayer.network.chain import Chain
from delayer.search.additive import Changes, nominated
from delayer.search.budget import Budget
from delayer.search.exact_search import Candidate, best_spans
from delayer.search.judging import Cut, MeasuredCut, Measuring, damage_of, ensure_judged
from delayer.search.local_search import refine
from delayer.search.predicting import edit_of, measure_singles, predicted_damage
from delayer.study import Scan, SpanDamage

NOMINATED = 8
"""How many sets of singles whose changes add up to least it judges as well."""
KEEP = 6
"""How many of the best predicted sets the real network judges first."""


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
    cut, cuts = nominate_and_refine(chain, scan, budget, measure, totals, effort, keep, milliseconds, singles, changes)
    ensure_judged((cut, found) for cut, _, found in cuts)
    return cut, cuts


def nominate_and_refine(
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
            candidate = Candidate(
                row.start, row.stop, row.title or row.operator, damage, saved, float(removed), float(added), row.residual
            )
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

    starts = [*best, *_apart(list(rows), target, chain.num_blocks, keep), *given]
    winner, measured = refine(starts, list(rows), target, judge, effort=len(starts) + effort)
    cuts = []
    for chosen, _ in measured:
        cut = tuple(edit_of(rows[c]) for c in chosen)
        cuts.append((cut, sum(c.damage for c in chosen), measure(cut)))
    return tuple(edit_of(rows[c]) for c in winner), cuts


def saving(row: SpanDamage, unit: str, milliseconds: Callable[[SpanDamage], float] | None = None) -> float:
    """What a row saves in a budget's unit."""
    if unit == "latency":
        if milliseconds is None:
            raise BudgetError("A latency budget needs measured milliseconds; measure them first.")
        return milliseconds(row)
    return float({"blocks": row.blocks_saved, "params": row.params_saved, "macs": row.macs_saved}[unit] or 0)


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
