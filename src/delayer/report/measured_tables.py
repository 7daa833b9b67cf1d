"""Tables of what was measured: before and after, candidates, latency, and proofs that the result reloads."""

from delayer.report.formats import MISSING, change, count, difference, in_unit, milliseconds, missing, number, percent, size
from delayer.report.measured_figures import setting
from delayer.report.tables import MOST_ROWS, Table, cropped, without_empty_columns
from delayer.study import Candidates, Measured, Measures, Results


def measures_table(results: Results) -> Table:
    """Grade, blocks, parameters, multiply-adds and memory: original, cut, change."""
    a, b = results.original, results.cut
    moved = difference(a.grade.value, b.grade.value, a.grade.unit)
    rows = [
        (f"{a.grade.name} ({a.grade.split})", _graded(a), _graded(b), moved),
        ("blocks", str(a.num_blocks), str(b.num_blocks), change(a.num_blocks, b.num_blocks)),
        ("parameters", count(a.params), count(b.params), change(a.params, b.params)),
        ("multiply-adds", count(a.macs), count(b.macs), change(a.macs, b.macs)),
        ("size on disk", size(a.size_bytes), size(b.size_bytes), change(a.size_bytes, b.size_bytes)),
    ]
    if not missing(a.peak_memory_mib):
        before, after = (f"{number(m.peak_memory_mib)} MiB" for m in (a, b))
        rows.append(("peak memory", before, after, change(a.peak_memory_mib, b.peak_memory_mib)))
    return Table(("", "original", "cut", "change"), rows)


def _graded(measures: Measures) -> str:
    grade = measures.grade
    ends = " to ".join(in_unit(value, grade.unit) for value in grade.interval or ())
    return in_unit(grade.value, grade.unit) + (f" ({ends})" if ends else "")


def opens_text(candidates: Candidates, one: Measured, results: Results | None = None) -> str:
    """What opens a cut, such as "timm ✓, delayer ✓, ONNX not tried". results: of the chosen one, once it was checked."""
    library, graph = candidates.library or one.opens_in, one.onnx
    if one.failed:
        return MISSING
    if one.chosen and results and results.onnx:
        graph = True
    mine = [f"{library} {_TICK[bool(one.opens_in)]}"] if library else []
    return ", ".join([*mine, "delayer ✓", f"ONNX {_TICK[graph]}"])


def opens_notes(candidates: Candidates) -> list[str]:
    """Why there are crosses among what opens the cuts, and how it is known what exports."""
    library = candidates.library or "its library"
    reasons = dict.fromkeys(one.closed for one in candidates.measured if one.closed and not one.opens_in)
    crosses = [f"{library} ✗: {'; or '.join(list(reasons)[:3])}."] if reasons and candidates.library else []
    return crosses + ([candidates.onnx_note] if candidates.onnx_note else [])


_TICK = {True: "✓", False: "✗", None: "not tried"}


def candidates_table(candidates: Candidates, results: Results | None = None) -> Table:
    """A row a measured set of edits, as many as fit and the chosen one."""
    measured = candidates.measured
    kept = measured[:MOST_ROWS] + tuple(m for m in measured[MOST_ROWS:] if m.chosen)

    def row(m: Measured) -> tuple[str, ...]:
        return (
            "; ".join(edit.label for edit in m.edits) or "nothing cut",
            opens_text(candidates, m, results),
            in_unit(m.grade, candidates.grade_unit),
            difference(candidates.original_grade, m.grade, candidates.grade_unit),
            number(m.kl),
            percent(None if candidates.grade_name.startswith("agreement") else m.agreement),
            percent(None if m.error is None else 100 * m.error),
            number(m.correlation),
            number(m.pair_correlation),
            number(m.predicted),
            count(m.params),
            count(m.macs),
            milliseconds(m.latency_ms),
            m.failed or MISSING,
        )

    among = candidates.grade_name.partition(" among ")[2]
    same = f"same top-1 among {among}" if among else "same top-1"
    names = (
        "change",
        "KL, nats",
        same,
        "relative error",
        "correlation",
        "correlation of pairs",
        "predicted damage",
        "parameters",
        "multiply-adds",
        "latency",
        "failed",
    )
    marked = frozenset(i for i, m in enumerate(kept) if m.chosen)
    note = " ".join(filter(None, [cropped(len(kept), len(measured), "candidates", "candidates.json"), *opens_notes(candidates)]))
    table = Table(("edits", "opens in", candidates.grade_name, *names), [row(m) for m in kept], marked, note)
    return without_empty_columns(table)


def latency_table(results: Results) -> Table:
    """A row a setting: medians with quartiles, the paired speed-up and its interval."""
    head = ("setting", "on", "original, median (quartiles)", "cut, median (quartiles)", "speed-up (95 %)", "rounds")
    rows = [
        (
            setting(info),
            f"{info.device}, {info.dtype}, {info.threads} threads",
            f"{milliseconds(info.original_ms)} ({_range(info.original_quartiles_ms)})",
            f"{milliseconds(info.cut_ms)} ({_range(info.cut_quartiles_ms)})",
            f"{number(info.speedup)} × ({number(info.speedup_interval[0])} to {number(info.speedup_interval[1])})",
            str(info.num_rounds),
        )
        for info in results.latency
    ]
    return Table(head, rows)


def tasks_table(results: Results) -> Table:
    """A row a metric of a task of lm-evaluation-harness: both networks, and the paired interval of the difference."""
    head = ("task", "metric", "samples", "original", "cut", "difference", "95 %, paired")
    rows = [
        (
            info.task,
            info.metric,
            str(info.num_samples),
            number(info.original),
            number(info.cut),
            f"{info.cut - info.original:+.4g}",
            "" if info.difference_interval is None else "{:+.4g} to {:+.4g}".format(*info.difference_interval),
        )
        for info in results.tasks
    ]
    return Table(head, rows)


def _range(ends: tuple[float, float]) -> str:
    return " to ".join(map(milliseconds, ends))


def proofs_table(results: Results) -> Table:
    """Whether the saved network gives the same answers in a new process, a row a loader."""
    rows = [
        (
            proof.loader,
            "passed" if proof.passed else "failed",
            number(proof.max_abs_difference, 2),
            number(proof.max_abs_output),
            str(proof.num_inputs),
            proof.note,
        )
        for proof in results.proofs
    ]
    if onnx := results.onnx:
        batches = f"batch {', '.join(map(str, onnx.batch_sizes))}" + (", any size" if onnx.dynamic else "")
        note = ". ".join(filter(None, (f"{onnx.path}, {size(onnx.size_bytes)}, {batches}", onnx.note)))
        rows.append(("ONNX Runtime", "compared", number(onnx.max_abs_difference, 2), MISSING, MISSING, note))
    return Table(("loaded by", "outcome", "largest difference", "largest output", "inputs", "note"), rows)
