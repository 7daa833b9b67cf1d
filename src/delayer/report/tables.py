"""Tables of the numbers that people want to copy: the edits, the ranking, and the errors of spans."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from delayer.report.cuts import Choice, blocks_text, errors_of
from delayer.report.formats import MISSING, count, error, missing, number, present
from delayer.study import Scan, Scores, SpanDamage

MOST_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """A text with a tint or a colour."""

    text: str
    heat: float | None = None
    """0 to 1, how strongly the cell is tinted."""
    swatch: str = ""
    """A colour shown before the text."""


@dataclass(frozen=True)
class Table:
    """A head and rows of texts; some rows marked as chosen."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str | Cell, ...]]
    marked: frozenset[int] = frozenset()
    """Numbers of the rows that were chosen."""
    note: str = ""


def text_of(cell: str | Cell) -> str:
    """What a cell says, without its colours."""
    return cell.text if isinstance(cell, Cell) else cell


def cropped(num_shown: int, num_rows: int, what: str, file: str) -> str:
    """A note for a table that leaves rows out."""
    return f"{num_shown:,} of {num_rows:,} {what}; {file} holds them all." if num_shown < num_rows else ""


def without_empty_columns(table: Table) -> Table:
    """The table without what was counted nowhere."""
    kept = [i for i in range(len(table.head)) if any(row[i] != MISSING for row in table.rows)]
    rows = [tuple(row[i] for i in kept) for row in table.rows]
    return replace(table, head=tuple(table.head[i] for i in kept), rows=rows)


def cuts_table(choice: Choice, scan: Scan | None) -> Table:
    """A row an edit: what the scan predicted for it, and the error of every operator on its span."""
    errors = errors_of(scan)
    rows = []
    for cut in choice.cuts:
        damages = [errors[name].get(cut.edit.spans[0]) if cut.damage else None for name in errors]
        name = Cell(cut.letter, swatch=choice.colours[cut.operator])
        saved = cut.damage.params_saved if cut.damage else None
        blocks = ", ".join(blocks_text(*span) for span in cut.edit.spans)
        rows.append((name, blocks, cut.edit.label, count(saved), *(error(d and d.residual) for d in damages)))
    return Table(("", "where", "edit", "parameters saved", *(f"error, {name}" for name in errors)), rows)


def ranking_table(scores: Scores, choice: Choice) -> Table:
    """A row a block; strongly tinted cells rank high in redundancy, so that uneven rows show disagreement."""
    rows = [_flat(row) for row in scores.ranking]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    worst = len(rows)

    def cell(row: dict[str, Any], key: str) -> str | Cell:
        value = row.get(key, MISSING)
        if key == "block" or missing(value):
            return str(value)
        return Cell(f"{value:.1f}" if value % 1 else f"{value:.0f}", 1 - (value - 1) / max(worst - 1, 1))

    gone = {block for _, start, stop in choice.spans for block in range(start, stop)}
    return Table(
        tuple(key.replace("_", " ") for key in keys),
        [tuple(cell(row, key) for key in keys) for row in rows],
        frozenset(i for i, row in enumerate(rows) if row.get("block") in gone),
    )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Ranks may come as a dictionary of their own."""
    return dict(pair for k, v in row.items() for pair in (v.items() if isinstance(v, dict) else [(k, v)]))


def correlation_table(scores: Scores) -> Table:
    """How far the metrics agree: rank correlations of each two."""
    keys = list(dict.fromkeys(key for row in scores.correlations for key in row))
    rows = [tuple(v if isinstance(v, str) else number(v) for v in map(row.get, keys)) for row in scores.correlations]
    return Table(tuple(keys), rows)


def spans_table(scan: Scan, choice: Choice) -> Table:
    """A row a span, least error first, a column an operator; what it saves is said of the best one."""
    errors = errors_of(scan)
    best: dict[tuple[int, int], tuple[SpanDamage, str]] = {}
    for name, mine in errors.items():
        for span, damage in mine.items():
            best[span] = min(best.get(span, (damage, name)), (damage, name), key=lambda item: item[0].residual)
    order = sorted(best, key=lambda span: best[span][0].residual)
    rows = []
    for span in order[:MOST_ROWS]:
        damage, name = best[span]
        each = (error(mine[span].residual) if span in mine else error(None) for mine in errors.values())
        saved = str(damage.blocks_saved), count(damage.params_saved), count(damage.macs_saved)
        ridge = damage.options.get("ridge")
        winner = Cell(damage.title, swatch=choice.colours[name])
        rows.append((f"{span[0]}:{span[1]}", winner, *each, number(ridge if present(ridge) else None, 2), *saved))
    chosen = {(start, stop) for _, start, stop in choice.spans}
    marked = frozenset(i for i, span in enumerate(order[:MOST_ROWS]) if span in chosen)
    head = ("span", "best operator", *errors, "its ridge", "blocks saved", "parameters saved", "multiply-adds saved")
    note = cropped(len(rows), len(order), "spans, those of least error", "scan.json")
    return without_empty_columns(Table(head, rows, marked, note))
