"""Data splits and a grade: what a network is fitted to, chosen by and judged on."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import DataError
from delayer.libraries import needed_by
from delayer.study import Grade
from delayer.tasks.answering import predictions
from delayer.tasks.grading import grade_of
from delayer.tasks.kinds import kind_of, token_ids
from delayer.tasks.labels import head_labels
from delayer.tasks.loaders import LoaderSplit
from delayer.tasks.options import Kind, TaskOptions
from delayer.tasks.outputs import Outputs
from delayer.tasks.randomness import randomness
from delayer.tasks.reading import reader_of
from delayer.tasks.sources import Samples, fingerprint, sources, spec_parts
from delayer.tasks.splits import Batch, Split, split_rows, split_sizes

BATCH_SIZE, BATCH_TOKENS = 32, 4096
"""Samples of a batch, and the tokens that those of a text may hold, where nothing was asked for."""
MOST_TOKENS = {"fit": 65_536, "validation": 16_384, "test": 65_536}
"""Tokens of each split where nothing was asked for, of a network that writes text."""


@dataclass
class Task:
    """What a network does, and data to fit it ("fit"), to choose by ("validation") and to judge it ("test").

    has_labels: whether all splits carry labels of the head's classes, or targets of regression; else grades compare
    with the original. hash: SHA-256 of the data and of which samples are where.
    notes: what went on and the user should know, such as "12 greyscale images of 500 are converted to RGB."
    class_index: the head's output for each class name of the data, where names are known.
    """

    name: str
    kind: Kind
    splits: Mapping[str, Split]
    has_labels: bool
    hash: str
    notes: list[str] = field(default_factory=list)
    class_index: dict[str, int] = field(default_factory=dict)

    def batches(self, split: str) -> Split:
        """The batches of a split. Raises DataError when the task has no such split."""
        if split not in self.splits:
            raise DataError(f"The task {self.name} has no {split} split; found {', '.join(self.splits)}.")
        return self.splits[split]


def evaluate(
    model: nn.Module,
    task: Task,
    split: str = "validation",
    *,
    reference: Outputs | None = None,
    device: torch.device | str | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> Grade:
    """The grade of a network on a split, and its distance from the original where that is given.

    reference: what `predictions(original, task.batches(split))` gave. limit: only the first so many samples.
    seed: of the bootstrap. What is graded, by kind of task: see `grade_of`.
    """
    batches = task.batches(split) if limit is None else task.batches(split).first(limit)
    return grade_of(predictions(model, batches, device=device, progress=progress), reference, seed=seed)


def open_task(spec: str, model: nn.Module, options: TaskOptions | None = None, *, test_spec: str | None = None) -> Task:
    """The task that `KIND:PATH` names, preprocessed as the network wants it, in seeded, disjoint splits.

    spec: such as imagefolder:PATH, npz:PATH#train, csv:PATH, text:PATH, hf:NAME or digits.
    model: the original; it tells the preprocessing, the classes and the kind of task, by one forward pass.
    test_spec: data of their own for the test split; the first then give fit and validation only.
    Raises DataError or NotFiniteError, in one sentence, for data that are missing, empty, unreadable or out
    of range.
    """
    options = options or TaskOptions()
    parts = {spec: ("fit", "validation", "test")}
    if test_spec is not None:
        parts = {spec: ("fit", "validation"), test_spec: ("test",)}
    opened = {each: _open_source(each, model, options) for each in parts}
    if test_spec is not None:
        _keep_apart(spec, test_spec, opened[spec])
    if test_spec == spec or len({samples.fingerprint for samples in opened.values()}) < len(opened):
        raise DataError(f"{spec} and {test_spec} hold the same data, but a test needs data of its own. Give others.")
    tasks = [_split(each, opened[each], names, model, options) for each, names in parts.items()]
    first, *others = tasks
    for other in others:
        if other.kind != first.kind:
            raise DataError(f"{test_spec} is a task of {other.kind}, {spec} one of {first.kind}. Give data of one kind.")
    splits = {name: split for task in tasks for name, split in task.splits.items()}
    notes = list(dict.fromkeys(note for task in tasks for note in task.notes))
    return replace(
        first,
        name=" ".join(opened),
        splits=splits,
        has_labels=all(task.has_labels for task in tasks),
        hash=fingerprint(*(task.hash for task in tasks)),
        notes=notes,
        class_index={name: k for task in tasks for name, k in task.class_index.items()},
    )


def _keep_apart(spec: str, test_spec: str, samples: Samples) -> None:
    """Draw nothing from the split that is to be the test. Raises DataError where fit would be drawn from it."""
    (kind, path, part), drawn, pools = spec_parts(test_spec), samples.drawn, samples.pools
    if drawn is None or pools is None or part not in drawn.values() or spec_parts(spec) != (kind, path, None):
        return
    if drawn["fit"] == part:
        raise DataError(f"{test_spec} is what {spec} is fitted on, but a test needs data of its own. Give others.")
    if drawn["validation"] == part:
        samples.pools = pools | {"validation": pools["fit"]}
        samples.notes.append(f"{part} of {spec} is the test, so validation is drawn from {drawn['fit']}.")


def _open_source(spec: str, model: nn.Module, options: TaskOptions) -> Samples:
    kind, path, part = spec_parts(spec)
    if ":" not in spec and kind not in sources:
        raise DataError(f"{spec!r} does not say what it is. Write KIND:PATH, with a KIND among {', '.join(sources)}.")
    with needed_by(spec):
        samples = sources[kind](path, part, options, model)
    if not samples.num:
        raise DataError(f"{spec} is an empty data set. Give at least one sample a split.")
    return samples


def _split(spec: str, samples: Samples, parts: Sequence[str], model: nn.Module, options: TaskOptions) -> Task:
    """A task with some of the splits, from one source."""
    labels = samples.labels if options.labels else None
    classes = None if labels is None or labels.is_floating_point() else labels
    rows = drawn_rows(samples, classes, options, parts)
    sizes = {part: len(rows[part]) for part in parts}
    with needed_by(spec):
        read, notes = reader_of(samples, [row for part in parts for row in rows[part]], model, options)
        one = read(rows[parts[0]][:1])
    does = kind_of(model, one, labels)
    kind = options.kind or does.kind
    budget_notes, size = [], options.batch_size or BATCH_SIZE
    if kind in ("causal-lm", "seq2seq") or (samples.content == "texts" and any(getattr(options, f"{p}_tokens") for p in parts)):
        rows, longest, budget_notes = within_tokens(rows, read, options)
        sizes = {part: len(rows[part]) for part in parts}
        size = options.batch_size or max(1, min(BATCH_SIZE, BATCH_TOKENS // max(1, longest)))
    found = head_labels(samples, kind, does.num_outputs, model, options)
    notes = samples.notes + notes + budget_notes + list(() if options.kind else does.notes) + found.notes + randomness(model, one)
    single = [part for part in parts if size == 1 or sizes[part] % size == 1]
    if single:
        which = "Each" if size == 1 else "The last"
        notes.append(f"{which} batch of {', '.join(single)} holds one sample.")

    def split(part: str) -> Split:
        chosen = rows[part]

        def load(numbers: range) -> tuple[Any, Tensor | None]:
            some = [chosen[k] for k in numbers]
            return read(some), None if found.labels is None else found.labels[some]

        return Split(part, kind, len(chosen), size, load, found.among)

    order = fingerprint(samples.fingerprint, str(options.seed), str(rows))
    return Task(spec, kind, {part: split(part) for part in parts}, found.labels is not None, order, notes, found.index)


def within_tokens(
    rows: Mapping[str, list[int]], read: Callable[[Sequence[int]], Any], options: TaskOptions
) -> tuple[dict[str, list[int]], int, list[str]]:
    """The first rows of each part that hold no more tokens than asked for, one row at least.

    Besides the tokens of the longest row, and what the user should know.
    """
    found, longest, notes = {}, 0, []
    for part, some in rows.items():
        asked = getattr(options, f"{part}_tokens")
        most, total, kept = asked or MOST_TOKENS[part], 0, 0
        for row in some:
            ids = token_ids(read([row]))
            num = 0 if ids is None else ids.numel()
            total, longest = total + num, max(longest, num)
            if total > most and kept:
                break
            kept += 1
        found[part] = some[:kept]
        if kept < len(some):
            notes.append(
                f"Of {len(some):,} {part} samples {kept:,} are used, {most:,} tokens at most (--{part}-tokens for more)."
            )
    return found, longest, notes


def drawn_rows(samples: Samples, classes: Tensor | None, options: TaskOptions, parts: Sequence[str]) -> dict[str, list[int]]:
    """Disjoint rows for each part, from all samples, or from the rows that the source keeps for it. Raises DataError."""
    pools = samples.pools or dict.fromkeys(parts, range(samples.num))
    rows: dict[str, list[int]] = {}
    for pool in dict.fromkeys(pools[part] for part in parts):
        here = [part for part in parts if pools[part] == pool]
        sizes = split_sizes(len(pool), options, here)
        found = split_rows(len(pool), None if classes is None else classes[pool.start : pool.stop], sizes, options.seed)
        rows |= {part: [pool[row] for row in some] for part, some in found.items()}
    return rows


def task_of(
    fit: Iterable[Any],
    validation: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    *,
    kind: Kind | None = None,
    model: nn.Module | None = None,
    classes: Sequence[int] | None = None,
) -> Task:
    """A task from data loaders, lists of batches or other iterables of x, (x, y) or dicts of tensors.

    kind: what the network does; by default found from its answer to the first batch if `model` is given, else
    from the first batch alone: whole labels mean classification, labels in floats regression, token ids without labels a
    language model. classes: the head's outputs to choose from, which each accuracy then says; all by default.
    The hash covers the first batch of each split.
    Raises DataError when a split is empty, or when an iterable can be read only once.
    """
    given = {"fit": fit, "validation": validation, "test": test}
    among = None if classes is None else tuple(sorted({int(k) for k in classes}))
    splits = {name: LoaderSplit(name, batches, kind, classes=among) for name, batches in given.items() if batches is not None}
    heads = {}
    for name, split in splits.items():
        heads[name] = next(iter(split), None)
        if heads[name] is None or not len(heads[name]):
            raise DataError(f"The {name} batches are empty. Give at least one sample.")
    first, notes = heads["fit"], []
    if model is not None:
        does = kind_of(model, first.inputs, first.labels)
        notes = [*(does.notes if kind is None else ()), *randomness(model, first.inputs)]
        kind = kind or does.kind
    if kind is None and first.labels is not None and first.labels.is_floating_point():
        kind = "regression"
    if kind is None:
        of_text = "causal-lm" if first.labels is None else "text-classification"
        kind = "image-classification" if token_ids(first.inputs) is None else of_text
    for name, split in splits.items():
        split.read_as_(kind)
        heads[name] = next(iter(split))  # labels as this kind reads them
    graded = kind.endswith("classification") or kind == "regression"
    has_labels = all(head.labels is not None for head in heads.values()) and graded
    notes += dict.fromkeys(note.replace(f" of the {name} split", "") for name, split in splits.items() for note in split.notes)
    if among is not None:
        notes.append(f"Accuracy is among {len(among)} of the head's outputs alone.")
    contents = [part for name, head in heads.items() for part in (name, *_contents(head))]
    return Task("batches from Python", kind, splits, has_labels, fingerprint(*contents), notes)


def _contents(batch: Batch) -> Iterator[str | bytes]:
    inputs = {"x": batch.inputs} if isinstance(batch.inputs, Tensor) else batch.inputs
    for name, x in {**inputs, "labels": batch.labels}.items():
        if x is not None:
            yield f"{name} {x.dtype} {list(x.shape)}"
            yield x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
