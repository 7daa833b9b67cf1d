"""`jsonl:PATH[#KEY]`: texts with or without labels, one JSON object a line, or one document that holds a list of them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, read_text, sources
from delayer.tasks.sources._columns import LABEL_NAMES, from_table
from delayer.tasks.sources._texts import TEXT_NAMES

DEPTH = 4
"""Objects inside objects whose fields become columns."""


@sources.register("jsonl")
def open_jsonl(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Objects with the same text field, and a label field if the first has one; a field inside another is called data.text.

    part: the field that holds the list, where a document has several, such as data or data.items.
    Raises DataError naming the line that does not fit.
    """
    return from_objects(read_text(path), path, part, options, model)


def from_objects(content: str, path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Samples of JSON objects: a line each, or in the list of a document."""
    rows: list[dict[str, Any]] = []
    for where, row in _objects(content, path, part):
        if not isinstance(row, dict):
            raise DataError(f'{where} of {path} is no JSON object. Write {{"text": ..., "label": ...}}.')
        row = _flat(row)
        if rows and rows[0].keys() - row.keys():
            lacking = ", ".join(sorted(rows[0].keys() - row.keys()))
            raise DataError(f"{where} of {path} lacks {lacking}, which the first has. Add it, or leave it out.")
        if rows and options.labels and (late := {*LABEL_NAMES, options.label_column} & (row.keys() - rows[0].keys())):
            raise DataError(
                f"{where} of {path} has a {late.pop()}, which the first lacks. Give one to each, or pass --no-labels."
            )
        rows.append(row)
    if not rows:
        raise DataError(f"{path} is empty. Give one text a line, and its label.")
    return from_table({name: [row[name] for row in rows] for name in rows[0]}, path, options, model)


def _objects(content: str, path: str, part: str | None) -> Iterator[tuple[str, Any]]:
    """The entries, each with where it stands."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        whole = None  # an object a line, or what its first bad line says
    row = isinstance(whole, dict) and any(name.lower() in TEXT_NAMES and isinstance(text, str) for name, text in whole.items())
    if isinstance(whole, list) or (isinstance(whole, dict) and (part is not None or (_lists(whole) and not row))):
        for number, entry in enumerate(_listed(whole, path, part)):
            yield f"Entry {number}", entry
        return
    if part is not None:
        raise DataError(f"#{part} was asked of {path!r}, which holds an object a line and no document. Leave #{part} out.")
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"Line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise DataError(f"Line {number} of {path} is not valid JSON ({error}). Write one object a line.") from error


def _lists(whole: Any, depth: int = 0) -> list[list[Any]]:
    """The lists of objects inside an object; the turns of a chat belong to the object itself."""
    if isinstance(whole, list):
        return [whole] if whole and isinstance(whole[0], dict) and not {"role", "from"} & whole[0].keys() else []
    if not isinstance(whole, dict) or depth > DEPTH:
        return []
    return [found for value in whole.values() for found in _lists(value, depth + 1)]


def _listed(whole: Any, path: str, part: str | None) -> list[Any]:
    """The list in a document: itself, under the field that is named, or the only one of objects."""
    for key in part.split(".") if part else ():
        if not isinstance(whole, dict) or key not in whole:
            found = ", ".join(whole) if isinstance(whole, dict) else f"a {type(whole).__name__}"
            raise DataError(f"{path} has no field {key!r} (#{part}); found {found[:200]}. Name the field that holds the list.")
        whole = whole[key]
    if isinstance(whole, list):
        return whole
    if len(lists := _lists(whole)) == 1:
        return lists[0]
    found = ", ".join(whole) if isinstance(whole, dict) else type(whole).__name__
    raise DataError(f"{path} holds no list of objects that is the only one; found {found[:200]}. Name its field, PATH#FIELD.")


def _flat(row: Mapping[str, Any], front: str = "", depth: int = 0) -> dict[str, Any]:
    """An object's fields, those of inner objects by their path."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping) and value and depth < DEPTH:
            found |= _flat(value, f"{front}{key}.", depth + 1)
        else:
            found[f"{front}{key}"] = value
    return found
