"""What a column of labels means: class numbers, class names or targets in numbers; each doubt is said or refused."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions

NOTHING = {"", "nan", "none", "null", "na", "n/a", "<na>", "?"}
"""How files write a label that is missing, in lower case; among names only the empty one surely is."""
WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of samples.

    values: class numbers [n] in whole numbers, or targets [n] or [n, numbers] in float32. names: what class k is called, where
    labels are names. notes: what was assumed.
    """

    values: Tensor
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


def labels_of(cells: Sequence[Any], path: str, options: TaskOptions = TaskOptions()) -> Labels:
    """Labels as they are meant.

    Whole numbers, also when written 3.0, "3" or " 3", are class numbers; true and false are 1 and 0; other numbers are targets;
    rows with a single 1 among zeros are class numbers too, and other lists of equally many numbers are targets. All else is
    names, in the order of their text. Raises DataError for labels that are missing, for lists of several classes (unless the
    task is regression) and for what is no label at all.
    """
    cells = [cell.tolist() if hasattr(cell, "tolist") else cell for cell in cells]
    _refuse_missing(cells, path, {""})
    if not cells:
        return Labels(torch.zeros(0, dtype=torch.long))
    if any(isinstance(cell, list | tuple) for cell in cells):
        return _lists(cells, path, options)
    for i, cell in enumerate(cells):
        if not isinstance(cell, str | int | float):
            raise DataError(f"Label {i} of {path} is a {type(cell).__name__}. Give a class number, a class name or a number.")
    texts = [str(cell).strip() for cell in cells]
    if {text.lower() for text in texts} <= {"true", "false"}:
        note = f"The labels of {path} are true and false: they are read as classes 1 and 0."
        return Labels(torch.tensor([int(text.lower() == "true") for text in texts]), notes=[note])
    numeric = [_is_number(text) for text in texts]
    if any(numeric) and all(known or text.lower() in NOTHING for known, text in zip(numeric, texts, strict=True)):
        _refuse_missing(cells, path, NOTHING)
        return _numbers(texts, path)
    return _names(cells, texts, numeric, path)


def _refuse_missing(cells: Sequence[Any], path: str, nothing: set[str]) -> None:
    missing = [i for i, cell in enumerate(cells) if cell is None or cell != cell or str(cell).strip().lower() in nothing]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(cells)} samples of {path} have no label, first sample {missing[0]}. "
            "Label or remove them, or pass --no-labels."
        )


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def _numbers(texts: Sequence[str], path: str) -> Labels:
    values = [int(text) if WHOLE.fullmatch(text) else float(text) for text in texts]
    if not all(value == int(value) for value in values):
        return Labels(
            torch.tensor(values, dtype=torch.float64).float(),
            notes=[
                f"The labels of {path} are no whole numbers, so they are targets of regression, from {min(values):.4g} to "
                f"{max(values):.4g}."
            ],
        )
    if max(map(abs, values)) >= 2**53:
        raise DataError(f"Labels of {path} go up to {max(values, key=abs):.3g}, which is no class number. Pass --no-labels.")
    odd = next((text for text in texts if not WHOLE.fullmatch(text)), None)
    notes = [f"Labels of {path} such as {odd} are read as class numbers, here {int(float(odd))}."] if odd else []
    return Labels(torch.tensor([int(value) for value in values]), notes=notes)


def _names(cells: Sequence[Any], texts: Sequence[str], numeric: Sequence[bool], path: str) -> Labels:
    names, notes = sorted(set(texts)), []
    if any(numeric):
        some = [next(text for text, known in zip(texts, numeric, strict=True) if known == wanted) for wanted in (True, False)]
        notes.append(
            f"{sum(numeric)} of {len(texts)} labels of {path} are numbers, such as {some[0]}, and others are names, "
            f"such as {some[1]}: all are taken for names."
        )
    if doubtful := [name for name in names if name.lower() in NOTHING]:
        notes.append(
            f"{path} has a class called {doubtful[0]!r} ({texts.count(doubtful[0])} samples). If that means no label, "
            "remove these samples."
        )
    alike = defaultdict(list)
    for name in names:
        alike[" ".join(name.lower().split())].append(name)
    for variants in alike.values():
        if len(variants) > 1:
            notes.append(
                f"Classes {' and '.join(map(repr, variants))} of {path} differ in case or spaces alone; they count as "
                f"{len(variants)} classes. Write them alike if they are one."
            )
    if num := sum(cell != text for cell, text in zip(cells, texts, strict=True) if isinstance(cell, str)):
        notes.append(f"Spaces around {num} labels of {path} are left out.")
    number_of = {name: number for number, name in enumerate(names)}
    return Labels(torch.tensor([number_of[text] for text in texts]), tuple(names), notes)


def _lists(cells: Sequence[Any], path: str, options: TaskOptions) -> Labels:
    """Lists of numbers: one class number each, one-hot rows, or targets."""
    if all(isinstance(cell, list | tuple) and len(cell) == 1 for cell in cells):
        return labels_of([cell[0] for cell in cells], path, options)
    example = str(next(cell for cell in cells if isinstance(cell, list | tuple)))[:60]
    several = DataError(
        f"Labels of {path} are lists, such as {example}, which name several classes at once (multi-label); a grade "
        "needs one class or equally many numbers a sample. "
        "Pass --no-labels to compare with the original."
    )
    try:
        values = torch.tensor([list(cell) for cell in cells], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # of other lengths, or not of numbers
        raise several from error
    if bad := int((~torch.isfinite(values.flatten(1))).any(1).sum()):
        raise DataError(f"{bad} of {len(cells)} labels of {path} hold NaN or infinity. Correct or remove them.")
    if options.kind == "regression":
        return Labels(values.float())
    if ((values == 0) | (values == 1)).all():
        if values.ndim == 2 and (values.sum(1) == 1).all():
            note = f"Labels of {path} are rows with one 1 among zeros (one-hot): its place is the class number."
            return Labels(values.argmax(1), notes=[note])
        raise several
    size = " × ".join(map(str, values.shape[1:]))
    return Labels(values.float(), notes=[f"The labels of {path} are lists of {size} numbers, targets of regression."])
