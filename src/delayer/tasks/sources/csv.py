"""`csv:PATH` (comma or tab) and `jsonl:PATH`: texts with or without labels."""

import csv
import json
from io import StringIO

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, no_part, read_text, sources
from delayer.tasks.sources._columns import LABEL_NAMES, TEXT_NAMES, from_texts, nothing_to_read, pick, unused


@sources.register("csv")
def open_csv(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Rows of a table whose first line names the columns; or two columns without names, one of whole numbers.

    A tab in the first line makes it a tab-separated table, in which quotation marks mean themselves.
    Raises DataError naming the columns found, or the line that does not fit.
    """
    no_part(part, path)
    text = read_text(path)
    tabs = "\t" in text.partition("\n")[0]
    csv.field_size_limit(2**31 - 1)
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    try:
        lines = [line for line in csv.reader(StringIO(text, newline=""), **style) if line]
    except csv.Error as error:
        raise DataError(f"{path} is no table of {'tab' if tabs else 'comma'}-separated values ({error}).") from error
    if not lines:
        raise DataError(f"{path} is empty. Give one text a line, and its label.")
    header, rows = _header(lines, options)
    for number, row in enumerate(rows, 1 + len(lines) - len(rows)):
        if len(row) != len(header):
            raise DataError(f"Row {number} of {path} has {len(row)} cells where the first has {len(header)}: {row[:3]}.")
    columns = {name: [row[k] for row in rows] for k, name in enumerate(header)}
    return _samples(columns, path, options)


@sources.register("jsonl")
def open_jsonl(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """One JSON object a line, all with the same text field, and a label field if the first has one."""
    no_part(part, path)
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"Line {number} of {path} is not valid JSON ({error}). Write one object a line.") from error
        if not isinstance(row, dict):
            raise DataError(f'Line {number} of {path} is no JSON object. Write {{"text": ..., "label": ...}}.')
        if rows and rows[0].keys() - row.keys():
            lacking = ", ".join(sorted(rows[0].keys() - row.keys()))
            raise DataError(f"Line {number} of {path} lacks {lacking}, which the first line has. Add it, or leave it out.")
        if rows and options.labels and (late := {*LABEL_NAMES, options.label_column} & (row.keys() - rows[0].keys())):
            raise DataError(
                f"Line {number} of {path} has a {late.pop()}, which the first line lacks. Give one to each line, or pass "
                "--no-labels."
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty. Give one text a line, and its label.")
    return _samples({name: [row[name] for row in rows] for name in rows[0]}, path, options)


def _header(lines: list[list[str]], options: TaskOptions) -> tuple[list[str], list[list[str]]]:
    known = {*TEXT_NAMES, *LABEL_NAMES, options.text_column, options.label_column}
    if len(lines[0]) == 2 and not known & {name for cell in lines[0] for name in (cell, cell.strip().lower())}:
        numeric = [all(_whole(line[k]) for line in lines if len(line) == 2) for k in (0, 1)]
        if numeric[0] != numeric[1]:
            return (["label", "text"] if numeric[0] else ["text", "label"]), lines
    return [cell.strip() for cell in lines[0]], lines[1:]


def _whole(cell: str) -> bool:
    return cell.strip().removeprefix("-").isdigit()


def _samples(columns: dict[str, list], path: str, options: TaskOptions) -> Samples:
    text = pick(columns, options.text_column, TEXT_NAMES, "text", path)
    if text is None:
        raise nothing_to_read(columns, path)
    label = pick(columns, options.label_column, LABEL_NAMES, "label", path) if options.labels else None
    samples = from_texts(columns[text], None if label is None else columns[label], path, options)
    samples.notes += unused(columns, {text}, label, path, options.labels)
    return samples
