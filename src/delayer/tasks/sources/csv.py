"""`csv:PATH` (comma, semicolon or tab): texts with or without labels."""

import csv
import re
from io import StringIO
from typing import Any

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, no_part, read_text, sources
from delayer.tasks.sources._columns import LABEL_NAMES, from_table
from delayer.tasks.sources._texts import TEXT_NAMES

DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


@sources.register("csv")
def open_csv(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Rows of a table whose first line names the columns; or two columns without names, one of whole numbers.

    A tab in the first line makes it a tab-separated table, in which quotation marks mean themselves; semicolons separate where
    commas give one column alone, and numbers may have a decimal comma then.
    Raises DataError naming the columns found, or the line that does not fit.
    """
    no_part(part, path)
    text = read_text(path)
    csv.field_size_limit(2**31 - 1)
    text = text.lstrip("\r\n")
    if stated := re.match(r"sep=([,;\t])\r?\n", text):  # as spreadsheets write it
        text = text[stated.end() :]
    mark = stated[1] if stated else _mark(text, path)
    lines = _lines(text, mark, path)
    if not lines:
        raise DataError(f"{path} is empty. Give one text a line, and its label.")
    header, rows = _header(lines, options)
    for number, row in enumerate(rows, 1 + len(lines) - len(rows)):
        if len(row) != len(header):
            raise DataError(f"Row {number} of {path} has {len(row)} cells where the first has {len(header)}: {row[:3]}.")
    columns: dict[str, list[Any]] = {name: [row[k] for row in rows] for k, name in enumerate(header)}
    notes = []
    for name, cells in columns.items() if mark == ";" else ():
        if any(map(DECIMAL_COMMA.fullmatch, cells)) and all(DECIMAL_COMMA.fullmatch(cell) or _whole(cell) for cell in cells):
            columns[name] = [cell.replace(",", ".") for cell in cells]
            notes.append(f"Numbers of the column {name} of {path} have a decimal comma.")
    samples = from_table(columns, path, options, model)
    samples.notes += notes
    return samples


def _mark(text: str, path: str) -> str:
    """What separates the cells, by the first line."""
    first = text.partition("\n")[0]
    if "\t" in first:
        return "\t"
    if ";" not in first:
        return ","
    wide = {mark: len(row[0]) if (row := _lines(first, mark, path)) else 0 for mark in (",", ";")}
    if min(wide.values()) > 1:  # both are there: the one that every row has as often
        even = [mark for mark in wide if len({len(row) for row in _lines(text, mark, path)}) == 1]
        return even[0] if even else ","
    return max(wide, key=wide.__getitem__)


def _lines(text: str, mark: str, path: str) -> list[list[str]]:
    style: dict[str, Any] = {"delimiter": mark} | ({"quoting": csv.QUOTE_NONE} if mark == "\t" else {})
    try:
        return [line for line in csv.reader(StringIO(text, newline=""), **style) if line]
    except csv.Error as error:
        raise DataError(f"{path} is no table of {NAMES[mark]}-separated values ({error}).") from error


def _header(lines: list[list[str]], options: TaskOptions) -> tuple[list[str], list[list[str]]]:
    known = {*TEXT_NAMES, *LABEL_NAMES, options.text_column, options.label_column}
    if len(lines[0]) == 2 and not known & {name for cell in lines[0] for name in (cell, cell.strip().lower())}:
        numeric = [all(_whole(line[k]) for line in lines if len(line) == 2) for k in (0, 1)]
        if numeric[0] != numeric[1]:
            return (["label", "text"] if numeric[0] else ["text", "label"]), lines
    return [cell.strip() for cell in lines[0]], lines[1:]


def _whole(cell: str) -> bool:
    return cell.strip().removeprefix("-").isdigit()
