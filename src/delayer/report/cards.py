"""The row of key figures: each says what was before, what is now, and how sure that is."""

from dataclasses import dataclass

from delayer.report.formats import change, count, difference, in_unit, milliseconds, missing, number, percent, present, size
from delayer.report.measured_figures import setting
from delayer.study import Candidates, LatencyInfo, Proof, Results, Scores, StudyInfo


@dataclass(frozen=True)
class Card:
    """One number at the top of the page: before, after, and what it means."""

    label: str
    value: str
    before: str = ""
    note: str = ""
    tone: str = ""
    """"good", "bad" or nothing."""


def cards_of(
    study: StudyInfo | None, scores: Scores | None, candidates: Candidates | None, results: Results | None
) -> list[Card]:
    """Key figures of a finished study, else of how far it got."""
    if results:
        return result_cards(results)
    cards = []
    if study:
        blocks = study.chain.blocks
        cards = [
            Card("Blocks", str(len(blocks)), note=f"{sum(b.removable for b in blocks)} removable"),
            Card("Parameters", count(study.params)),
            Card("Multiply-adds", count(study.macs)),
        ]
    if scores and scores.scores:
        samples = max(score.num_samples for score in scores.scores)
        cards.append(Card("Metrics", str(len({s.name for s in scores.scores})), note=f"on {samples:,} samples"))
    chosen = next((m for m in candidates.measured if m.chosen), None) if candidates else None
    if candidates and chosen:
        unit = candidates.grade_unit
        before, after = (in_unit(v, unit) for v in (candidates.original_grade, chosen.grade))
        moved = difference(candidates.original_grade, chosen.grade, unit)
        cards.append(Card(_capital(candidates.grade_name), after, before, f"{moved}, chosen candidate, validation"))
        if study:
            note = change(study.params, chosen.params)
            cards[1] = Card("Parameters", count(chosen.params), count(study.params), note)
    return cards


def result_cards(results: Results) -> list[Card]:
    """What was lost and won: grade, blocks, parameters, speed, proofs."""
    a, b = results.original, results.cut
    cards = [
        grade_card(results),
        Card("Blocks", str(b.num_blocks), str(a.num_blocks), change(a.num_blocks, b.num_blocks)),
        Card("Parameters", count(b.params), count(a.params), change(a.params, b.params)),
    ]
    if not missing(a.macs):
        cards.append(Card("Multiply-adds", count(b.macs), count(a.macs), change(a.macs, b.macs)))
    engine = [info for info in results.latency if info.engine == results.latency[0].engine]
    for size_ in sorted({info.batch_size for info in engine})[:: max(len({i.batch_size for i in engine}) - 1, 1)]:
        cards.append(latency_card(next(info for info in engine if info.batch_size == size_)))
    if not missing(b.grade.agreement) and not b.grade.name.startswith("agreement"):
        among = b.grade.name.partition(" among ")[2]
        kl = "" if missing(b.grade.kl) else f"as the original; KL {number(b.grade.kl, 2)} nats"
        kl = f"{kl}, among {among}".lstrip(", ") if among else kl
        cards.append(Card("Same answers", percent(b.grade.agreement), note=kl))
    if present(b.grade.pair_correlation):
        kl = "" if missing(b.grade.kl) else f"KL {number(b.grade.kl, 2)} nats"
        cards.append(Card("Pair similarities", f"{b.grade.pair_correlation:.3f}", note=f"rank correlation; {kl}".rstrip("; ")))
    if present(b.grade.error):
        correlated = "" if missing(b.grade.correlation) else f"correlation {number(b.grade.correlation)}"
        cards.append(Card("Distance from the original", percent(100 * b.grade.error), note=correlated or "relative error"))
    if not missing(a.peak_memory_mib):
        after, before = (f"{number(m.peak_memory_mib)}\u00a0MiB" for m in (b, a))
        cards.append(Card("Peak memory", after, before, change(a.peak_memory_mib, b.peak_memory_mib)))
    else:
        cards.append(Card("Size on disk", size(b.size_bytes), size(a.size_bytes), change(a.size_bytes, b.size_bytes)))
    if results.proofs:
        cards.append(proof_card(results.proofs))
    return cards


def grade_card(results: Results) -> Card:
    """The grade on test data, and how sure it is."""
    a, b = results.original.grade, results.cut.grade
    parts = [difference(a.value, b.value, b.unit)]
    if b.interval:
        parts.append(f"95\u00a0% interval {number(b.interval[0])} to {number(b.interval[1])}")
    parts.append(f"{b.num_samples:,} {b.split} samples")
    return Card(_capital(b.name), in_unit(b.value, b.unit), in_unit(a.value, a.unit), ", ".join(parts))


def latency_card(info: LatencyInfo) -> Card:
    """The speed-up and its 95 % interval; good or bad only where the interval leaves 1 out."""
    low, high = info.speedup_interval
    interval = f"({number(low)} to {number(high)})"
    if low > 1:
        note, tone = f"{number(info.speedup)}\u00a0× faster {interval}", "good"
    elif high < 1:
        note, tone = f"slower: {number(info.speedup)}\u00a0× {interval}", "bad"
    else:
        note, tone = f"no clear difference: {number(info.speedup)}\u00a0× {interval}", ""
    values = milliseconds(info.cut_ms), milliseconds(info.original_ms)
    return Card(f"Latency, {setting(info)}", *values, note, tone)


def proof_card(proofs: tuple[Proof, ...]) -> Card:
    """The worst of all reload proofs."""
    worst = min(proofs, key=lambda p: (p.passed, -p.max_abs_difference))
    gap = "bit for bit" if worst.max_abs_difference == 0 else f"at most {number(worst.max_abs_difference, 2)} apart"
    note = f"{gap} on {worst.num_inputs:,} inputs, fresh process, {worst.loader}"
    return Card("Reload proof", "passed" if worst.passed else "failed", note=note, tone="good" if worst.passed else "bad")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
