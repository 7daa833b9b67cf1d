"""What every span and operator is predicted to cost, from what the real network said of single blocks.

Scores of single layers do not add up (the same eight layers of one decoder leave 29.5 % or 50.8 % of an exam, by
which set is taken), so predictions only nominate.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from delayer.cutting.by_hand import edit_with
from delayer.edits import Edit
from delayer.fitting.operators import Operator, operator_of
from delayer.network.chain import Chain, Span
from delayer.search.judging import Measuring, damage_of, ensure_judged
from delayer.search.ties import noise_of
from delayer.study import Scan, SpanDamage


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
    digits are not kept, so that equal damages are equal numbers. Where nothing is left of a damage, the residual of dropping the
    span's blocks stands for it, below what a forward pass can tell, so that of such blocks the one that changes least is first.
    """
    worst = max((value for value in singles.values() if math.isfinite(value)), default=0.0)
    known = {key: min(value, worst) if value > noise_of(0.0) else 0.0 for key, value in singles.items()}
    simplest = _simplest(scan)
    alone = {(s.start, s.operator): s.residual for s in scan.spans if s.stop == s.start + 1}
    most = max((value for (_, operator), value in alone.items() if operator == simplest), default=0.0) * len(alone)
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
        if value == 0 and most > 0:
            value = noise_of(0.0) * base / most
        found.append(float(f"{value:.4e}"))
    return found


def residual_in(scan: Scan) -> Callable[[Sequence[Edit]], float]:
    """What the edits of a cut miss, by a scan's held-out residuals: it tells cuts apart that forward passes do not."""
    known: dict[Edit, float] = {}
    for row in scan.spans:
        if math.isfinite(row.residual):
            known.setdefault(edit_of(row), row.residual)
    return lambda cut: float(f"{sum(known.get(edit, 0.0) for edit in cut):.3e}")


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
