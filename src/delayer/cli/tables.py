"""What commands print: a short table for each record, or its JSON."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from delayer import stages
from delayer.cutting import Plan
from delayer.report.measured_tables import opens_notes, opens_text
from delayer.report.shrinking import comparison_table
from delayer.report.tables import text_of
from delayer.study import Comparison, OnnxInfo, Results, Scan, Scores, Study
from delayer.tuning import TuneReport


def print_record(record: BaseModel, as_json: bool) -> None:
    """What a stage wrote on standard output: a table, or its record as JSON."""
    if as_json:
        print(record.model_dump_json(indent=1))
    else:
        show("", record)


def show(stage: str, record: Any) -> None:
    """A short table of what a stage found."""
    console = Console()
    if isinstance(record, Scores):
        console.print(_scores_table(record))
        for table in _network_tables(record):
            console.print(table)
        for text in dict.fromkeys(text for one in (*record.scores, *record.networks) for text in one.warnings):
            console.print(f"[yellow]{text}[/]")
        for text in record.disagreements:
            console.print(f"[yellow]{text}[/]")
        if record.correlations:
            table = Table("metric", "first", "second", "Pearson", "Spearman", title="Same pattern on other data?")
            for row in record.correlations:
                table.add_row(row["metric"], row["first"], row["second"], f"{row['pearson']:.3f}", f"{row['spearman']:.3f}")
            console.print(table)
    elif isinstance(record, Scan):
        console.print(_scan_table(record))
    elif isinstance(record, Plan):
        for edit in record.edits:
            console.print(f"plan: {edit.label}")
        console.print(f"maps fitted: {record.refit}")
    elif isinstance(record, TuneReport):
        console.print(record.note)
    elif isinstance(record, OnnxInfo):
        console.print(f"{record.path}: {record.size_bytes:,} bytes, largest difference {record.max_abs_difference:.1e}")
    elif isinstance(record, Comparison):
        found, shown = comparison_table(record), (0, 2, 3, 6, 8, 9, 10)
        table = Table(*(found.head[k] for k in shown), title="Schedules after their last round, means over seeds")
        for row in found.rows:
            table.add_row(*(text_of(row[k]) for k in shown))
        console.print(table)
    elif isinstance(record, Results):
        console.print(_results_table(record))
        for text in record.warnings:
            console.print(f"[yellow]{text}[/]")
        console.print(record.headline, style="bold")


def show_candidates(study: Study, most: int = 6) -> None:
    """The best cuts that were measured for a plan, and what opens what they leave."""
    if (found := study.read_or_none("candidates")) is None:
        return
    table = Table("cut", found.grade_name, "KL, nats", "parameters", "opens in", title="Cuts that were measured, on validation")
    first = found.measured[:most]
    for one in (*first, *(one for one in found.measured[most:] if one.chosen)):
        labels = ", ".join(edit.label for edit in one.edits)
        table.add_row(
            f"[bold]{labels} (chosen)[/]" if one.chosen else labels,
            "failed" if one.grade is None else f"{one.grade:.2f}{found.grade_unit}",
            "" if one.kl is None else f"{one.kl:.4f}",
            f"{one.params:,}",
            opens_text(found, one),
        )
    table.caption = " ".join(opens_notes(found))
    Console().print(table)


def _scores_table(scores: Scores) -> Table:
    titles = list(dict.fromkeys(s.title for s in scores.scores))
    table = Table("block", "mean rank", *titles, title="Blocks, most redundant first (rank by each metric)")
    for row in scores.ranking[:12]:
        table.add_row(str(row["block"]), f"{row['mean_rank']:.1f}", *(str(row["ranks"].get(t, "")) for t in titles))
    read = dict.fromkeys(f"{s.title} {s.num_samples:,} ({s.fewest:,})" for s in scores.scores)
    table.caption = f"Samples read (and under how many a metric warns): {', '.join(read)}"
    return table


def _network_tables(scores: Scores) -> list[Table]:
    """A table a metric of whole networks: a row a network, the most redundant first; scores.json holds all numbers."""
    found = []
    for name in dict.fromkeys(one.name for one in scores.networks):
        rows = [one for one in scores.networks if one.name == name]
        compared, *others = [label for label in rows[0].labels if label not in ("low", "high")][:4]
        several = len({one.data for one in rows}) > 1
        table = Table(
            "network",
            *(["data"] if several else []),
            compared,
            "95 % interval",
            *others,
            title=f"{rows[0].title}: {compared} {rows[0].unit}, the most redundant first",
            caption=f"Warns under {rows[0].fewest:,} samples; read from {min(one.num_samples for one in rows):,}",
        )
        table.columns[0].overflow = "fold"
        for one in rows:
            numbers = one.named
            between = f"{numbers['low']:.3f}–{numbers['high']:.3f}" if "low" in numbers else "–"
            table.add_row(
                one.model,
                *([one.data] if several else []),
                f"{numbers[compared]:.3f}",
                between,
                *(f"{numbers[label]:.5g}" if label in numbers else "–" for label in others),
            )
        found.append(table)
    return found


def _scan_table(scan: Scan) -> Table:
    operators = list(dict.fromkeys(s.operator for s in scan.spans))
    table = Table("block", *operators, title="Held-out relative residual of single blocks (0 is perfect)")
    singles: dict[int, dict[str, float]] = {}
    for s in scan.spans:
        if s.stop == s.start + 1:
            best = singles.setdefault(s.start, {})
            best[s.operator] = min(best.get(s.operator, float("inf")), s.residual)
    for block, values in sorted(singles.items()):
        table.add_row(str(block), *(f"{values[o]:.3f}" if o in values else "" for o in operators))
    return table


def _results_table(results: Results) -> Table:
    a, b = results.original, results.cut
    table = Table("", "original", "cut", "change", title="What was lost, what was won")
    table.add_row(
        f"{a.grade.name} (test, {a.grade.num_samples})",
        f"{a.grade.value:.2f}",
        f"{b.grade.value:.2f}",
        f"{b.grade.value - a.grade.value:+.2f}",
    )
    if b.grade.kl is not None:
        table.add_row("divergence from the original", "", f"{b.grade.kl:.4f}", "nats")
    if b.grade.pair_correlation is not None:
        table.add_row("rank correlation of pair similarities", "", f"{b.grade.pair_correlation:.4f}", "")
    if b.grade.error is not None:
        sure = "" if b.grade.correlation is None else f"correlation {b.grade.correlation:.3f}"
        table.add_row("distance from the original", "", f"{100 * b.grade.error:.2f} %", sure)
    table.add_row("blocks", str(a.num_blocks), str(b.num_blocks), f"{b.num_blocks - a.num_blocks:+d}")
    table.add_row("parameters", f"{a.params:,}", f"{b.params:,}", f"{100 * (b.params / a.params - 1):+.1f} %")
    if a.macs and b.macs:
        table.add_row("multiply-adds", f"{a.macs:,}", f"{b.macs:,}", f"{100 * (b.macs / a.macs - 1):+.1f} %")
    for t in results.latency:
        low, high = t.speedup_interval
        table.add_row(
            f"{t.engine}, batch {t.batch_size}",
            f"{t.original_ms:.1f} ms",
            f"{t.cut_ms:.1f} ms",
            f"{t.speedup:.2f}× ({low:.2f}–{high:.2f})",
        )
    for info in results.tasks:
        gap = "" if info.difference_interval is None else " ({:+.3f} to {:+.3f})".format(*info.difference_interval)
        change = f"{info.cut - info.original:+.4f}{gap}"
        table.add_row(f"{info.task}, {info.metric}", f"{info.original:.4f}", f"{info.cut:.4f}", change)
    for p in results.proofs:
        table.add_row(f"reload, {p.loader}", "", f"{p.max_abs_difference:.1e}", "proven" if p.passed else "FAILED")
    if results.onnx:
        table.add_row("ONNX against torch", "", f"{results.onnx.max_abs_difference:.1e}", "")
    return table


def say_where(out: Path) -> None:
    """Two lines that say where the smaller network and the report lie."""
    Console().print(f"Smaller network: {out / 'model'}\nReport:          {out / 'report.html'}", highlight=False)


def try_report(folder: Path, as_json: bool) -> None:
    """Render the report of a study where the libraries for it are installed; as_json: without saying so."""
    try:
        path = stages.report_stage(folder)
    except ImportError:
        return
    if not as_json:
        print(f"Report: {path}")
