"""Which output of the head stands for which class of the data."""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from delayer.errors import DataError
from delayer.tasks.options import Kind, TaskOptions
from delayer.tasks.sources import Samples, read_text


@dataclass(frozen=True, eq=False)
class HeadLabels:
    """Labels that the head understands, and what became of the data's own.

    labels: output of the head for each sample [num], or targets of regression in floats; None without. among: the outputs to
    choose from, where these are not all. index: the output of each class name. notes: what the user should
    know.
    """

    labels: Tensor | None
    among: tuple[int, ...] | None = None
    index: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def head_labels(samples: Samples, kind: Kind, num_outputs: int, model: nn.Module, options: TaskOptions) -> HeadLabels:
    """Labels as outputs of the head, as targets of regression, or none where the two do not go together.

    Class names are mapped by `--classes`, else by the network's own names, else in order if there are as many
    as outputs. Numbers are outputs already. A list in `--classes` that names fewer outputs than there are (empty lines
    stand for the others) narrows the choice to these. Raises DataError for labels out of range, for targets where classes
    are wanted and for names that are not listed.
    """
    labels, names = samples.labels, samples.class_names
    if labels is None or not options.labels:
        notes = ["--classes is not used, as there are no labels."] if options.classes else []
        return HeadLabels(None, notes=notes)
    if kind == "regression":
        if names is None:
            return HeadLabels(labels.float())
        return HeadLabels(None, notes=["The labels are not used, as they are names and the network answers with numbers."])
    if kind not in ("image-classification", "text-classification"):
        does = "predicts text" if kind in ("causal-lm", "seq2seq") else "has no classes"
        return HeadLabels(None, notes=[f"The labels are not used, as the network {does}."])
    if labels.is_floating_point():
        raise DataError(
            f"Labels such as {_example(labels)} are no class numbers, but the task is {kind}. Pass --kind regression if "
            "the network's outputs are numbers, or --no-labels."
        )
    _check_range(labels, num_outputs if names is None else len(names))
    if names is None:
        if options.classes:
            raise DataError(
                "--classes maps class names, but these labels are numbers, which are outputs of the head as "
                "they are. Leave --classes out."
            )
        return HeadLabels(labels, notes=_counting_from_one(labels))
    notes, among = [], None
    if options.classes:
        index, among = _listed(names, options.classes, num_outputs)
    else:
        index = _own_names(names, model)
    if index is None and len(names) != num_outputs:
        notes.append(
            f"The data have {len(names)} classes, the network has {num_outputs} outputs: labels are left "
            "out; map them by --classes FILE."
        )
        return HeadLabels(None, notes=notes)
    if index is None:
        index = {name: k for k, name in enumerate(names)}
        notes += _in_order(names)
    if among is not None:
        notes.append(f"{options.classes} names {len(among)} of the head's {num_outputs} outputs: accuracy is among these alone.")
    elif len(used := set(index.values())) < num_outputs:
        notes.append(
            f"The data have {len(used)} of the head's {num_outputs} classes; accuracy is over the whole head. To choose "
            "among fewer, give --classes a list in which the lines of all others are empty."
        )
    return HeadLabels(torch.tensor([index[name] for name in names])[labels], among, index, notes)


def _example(labels: Tensor) -> str:
    return "(" + ", ".join(f"{x:.4g}" for x in labels[0].flatten()[:3]) + ", ...)" if labels.ndim > 1 else f"{labels[0]:.4g}"


def _counting_from_one(labels: Tensor) -> list[str]:
    if not len(labels) or labels.min() != 1:
        return []
    return [
        f"No sample has label 0: labels run from 1 to {labels.max()}, and are taken for the head's outputs as they are. If they "
        "count from 1, subtract 1."
    ]


def _in_order(names: tuple[str, ...]) -> list[str]:
    """What is to be said where classes are taken for the head's outputs in their own order."""
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    notes = [f"The data's {len(names)} classes are taken for the network's outputs in order: {some}"]
    by_number = sorted(
        names,
        key=lambda name: [
            (not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part
        ],
    )
    if list(names) == sorted(names) != by_number:
        notes.append(
            f"Class names with numbers are in the order of their text, as torchvision's ImageFolder has them: {some} If the head "
            f"counts them as {', '.join(by_number[:3])}, ..., give that order by --classes FILE."
        )
    return notes


def _check_range(labels: Tensor, num_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        shifted = labels.min() == 1 and labels.max() == num_classes
        hint = "They count from 1: subtract 1" if shifted else "Correct them (-1 often marks a missing label)"
        raise DataError(
            f"Labels run from {labels.min()} to {labels.max()}, but classes from 0 to {num_classes - 1}. "
            f"{hint if shifted or labels.min() < 0 else 'Correct them'}, or pass --no-labels."
        )


def _listed(names: tuple[str, ...], path: Path, num_outputs: int) -> tuple[dict[str, int], tuple[int, ...] | None]:
    """Outputs by line number, and which ones are named at all, None for all.

    A line is a name, or a name and more, as in 'n01440764 tench'.
    """
    lines = [line.strip() for line in read_text(str(path)).rstrip().splitlines()]
    if len(lines) > num_outputs:
        raise DataError(f"{path} lists {len(lines)} classes, the network has {num_outputs} outputs. Give its own list.")
    whole = {line: k for k, line in enumerate(lines) if line}
    first = {line.replace(",", " ").split()[0]: k for k, line in reversed(list(enumerate(lines))) if line}
    index = {name: k for name in names if (k := whole.get(name, first.get(name))) is not None}
    if missing := [name for name in names if name not in index]:
        near = get_close_matches(missing[0], [*whole, *first], n=2)
        raise DataError(
            f"{path} lacks {len(missing)} of {len(names)} classes of the data: {', '.join(missing[:5])}. "
            f"{f'Did you mean {near[0]}? ' if near else ''}Add them, one name a line, line 1 for output 0."
        )
    named = tuple(k for k, line in enumerate(lines) if line)
    return index, named if len(named) < num_outputs else None


def _own_names(names: tuple[str, ...], model: nn.Module) -> dict[str, int] | None:
    own = getattr(getattr(model, "config", None), "label2id", None) or {}
    own = {str(name).lower(): int(k) for name, k in own.items()}
    if all(name.lower() in own for name in names):
        return {name: own[name.lower()] for name in names}
    return None
