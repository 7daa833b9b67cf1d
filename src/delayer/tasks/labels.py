"""Which output of the head stands for which class of the data."""

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

    labels: output of the head for each sample [num], None without. among: the outputs that stand for the
    data's classes, where these are not all. index: the output of each class name. notes: what the user should
    know.
    """

    labels: Tensor | None
    among: tuple[int, ...] | None = None
    index: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def head_labels(
    samples: Samples, kind: Kind, num_outputs: int, model: nn.Module, options: TaskOptions
) -> HeadLabels:
    """Labels as outputs of the head, or none where the two do not go together.

    Class names are mapped by `--classes`, else by the network's own names, else in order if there are as many
    as outputs. Numbers are outputs already. Raises DataError for labels out of range and for names that are
    not listed.
    """
    labels, names = samples.labels, samples.class_names
    if labels is None or not options.labels:
        notes = ["--classes is not used, as there are no labels."] if options.classes else []
        return HeadLabels(None, notes=notes)
    if kind not in ("image-classification", "text-classification"):
        does = "predicts text" if kind == "causal-lm" else "has no classes"
        return HeadLabels(None, notes=[f"The labels are not used, as the network {does}."])
    _check_range(labels, num_outputs if names is None else len(names))
    if names is None:
        if options.classes:
            raise DataError(
                "--classes maps class names, but these labels are numbers, which are outputs of the head as "
                "they are. Leave --classes out."
            )
        return HeadLabels(labels)
    notes = []
    index = _listed(names, options.classes, num_outputs) if options.classes else _own_names(names, model)
    if index is None and len(names) != num_outputs:
        notes.append(
            f"The data have {len(names)} classes, the network has {num_outputs} outputs: labels are left "
            "out; map them by --classes FILE."
        )
        return HeadLabels(None, notes=notes)
    if index is None:
        index = {name: k for k, name in enumerate(names)}
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        notes.append(f"The data's {len(names)} classes are taken for the network's outputs in order: {some}")
    outputs = torch.tensor([index[name] for name in names])
    among = tuple(sorted(set(index.values())))
    return HeadLabels(outputs[labels], among if len(among) < num_outputs else None, index, notes)


def _check_range(labels: Tensor, num_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"Labels run from {labels.min()} to {labels.max()}, but classes from 0 to {num_classes - 1}. "
            "Correct them, or pass --no-labels."
        )


def _listed(names: tuple[str, ...], path: Path, num_outputs: int) -> dict[str, int]:
    """Outputs by line number; a line is a name, or a name and more, as in 'n01440764 tench'."""
    lines = [line.strip() for line in read_text(str(path)).rstrip().splitlines()]
    if len(lines) > num_outputs:
        raise DataError(
            f"{path} lists {len(lines)} classes, the network has {num_outputs} outputs. Give its own list."
        )
    whole = {line: k for k, line in enumerate(lines)}
    first = {line.replace(",", " ").split()[0]: k for k, line in reversed(list(enumerate(lines))) if line}
    index = {name: whole.get(name, first.get(name)) for name in names}
    if missing := [name for name, k in index.items() if k is None]:
        near = get_close_matches(missing[0], [*whole, *first], n=2)
        raise DataError(
            f"{path} lacks {len(missing)} of {len(names)} classes of the data: {', '.join(missing[:5])}. "
            f"{f'Did you mean {near[0]}? ' if near else ''}Add them, one name a line, line 1 for output 0."
        )
    return index


def _own_names(names: tuple[str, ...], model: nn.Module) -> dict[str, int] | None:
    own = getattr(getattr(model, "config", None), "label2id", None) or {}
    own = {str(name).lower(): int(k) for name, k in own.items()}
    if all(name.lower() in own for name in names):
        return {name: own[name.lower()] for name in names}
    return None
