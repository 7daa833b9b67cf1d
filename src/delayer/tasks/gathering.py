"""Answers collected batch by batch, in bounded memory."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from delayer.errors import DataError, NotFiniteError
from delayer.tasks.answers import answer_rows, as_logits, pooled
from delayer.tasks.outputs import Outputs
from delayer.tasks.regression import numbers_of
from delayer.tasks.splits import Batch, Split

KEPT_BYTES = 128 * 2**20
"""Of log-probabilities; beyond it they are kept for rows drawn at random."""
WORKED_ON = 2**20
"""Log-probabilities made at once: few enough to stay in a processor's cache, and in memory that is used again."""


class Gathering:
    """Collects rows batch by batch."""

    def __init__(self, split: Split):
        self.split, self.num_samples, self.num_rows = split, 0, 0
        self.sample, self.top1, self.truth, self.nll = [], [], [], []
        self.priority, self.kept, self.values = [], [], []
        self.bar, self.output, self.single = float("inf"), None, []

    def add(self, output: Tensor, batch: Batch, number: int) -> None:
        """Add what the network answers to a batch. Raises DataError for an answer of no use, NotFiniteError naming the batch."""
        self.num_samples += len(batch)
        ndim = {"image-classification": 2, "text-classification": 2, "causal-lm": 3, "seq2seq": 3}.get(self.split.kind)
        numbers = self.split.kind == "regression"
        output = output[:, None] if output.ndim == 1 and (numbers or ndim == 2) else output
        if len(output) != len(batch) or output.ndim < 2 or ndim not in (None, output.ndim):
            raise DataError(
                f"The task is {self.split.kind}, but for {len(batch)} samples the network answers with "
                f"{list(output.shape)}. Name the kind of task that fits (--kind)."
            )
        if numbers:
            self._check(output, batch, number)
            self._add_numbers(output, batch.labels)
            return
        if self.split.kind == "embedding":
            vectors = pooled(output, batch.mask_for(output.shape[1]))
            self._check(vectors, batch, number)
            self.values.append(vectors.float().cpu())
            return
        if output.shape[1:] == (1,):
            self.single.append(output[:, 0].float().cpu())
        for sample, logits, truth in answer_rows(output, batch, self.split.kind):
            self._check(logits, batch, number)
            self._add_rows(sample, logits, truth)

    def _add_numbers(self, answer: Tensor, truth: Tensor | None) -> None:
        if truth is not None and truth.numel() != answer.numel():
            raise DataError(
                f"Labels of the {self.split.name} split are {list(truth.shape)}, but the network answers with "
                f"{list(answer.shape)}. Give one number for each output, or pass --no-labels."
            )
        values, output = numbers_of(answer.float())
        if self.values and self.values[-1].shape[1] != values.shape[1]:
            raise DataError(
                f"The network answers one batch of the {self.split.name} split with {self.values[-1].shape[1]} numbers a "
                f"sample and another with {values.shape[1]}, which cannot be compared. Give samples of one size (--size)."
            )
        self.values.append(values.cpu())
        self.output = output
        if truth is not None:
            self.truth.append(numbers_of(truth.float().reshape(answer.shape))[0].cpu())

    def _add_rows(self, sample: Tensor, logits: Tensor, truth: Tensor | None) -> None:
        among = None if self.split.classes is None else torch.tensor(self.split.classes, device=logits.device)
        self._check_truth(truth, logits.shape[1], among)
        # Rows with the smallest random numbers stay, so that the batches do not matter, and so that rows kept
        # among many samples would also have been kept among the first few of them.
        priority = _random(sample)
        keep = priority < self.bar
        logits = as_logits(logits)
        for start in range(0, len(sample), step := max(1, WORKED_ON // logits.shape[1])):
            rows = slice(start, start + step)
            log_probs = logits[rows].log_softmax(1, dtype=torch.float32)
            top1 = log_probs.max(1).indices if among is None else among[log_probs[:, among].max(1).indices]
            self.top1.append(top1.cpu())
            if self.split.kind in ("causal-lm", "seq2seq") and truth is not None:
                self.nll.append(F.nll_loss(log_probs, truth[rows], reduction="none").cpu())
            self.values.append(log_probs[keep[rows].to(log_probs.device)].cpu())
        self.sample.append(sample)
        if truth is not None:
            self.truth.append(truth.cpu())
        self.priority.append(priority[keep])
        self.kept.append(self.num_rows + keep.nonzero()[:, 0])
        self.num_rows += len(sample)
        room = max(1, KEPT_BYTES // (4 * logits.shape[1]))
        if sum(map(len, self.kept)) > 2 * room:
            self._keep(room)

    def _check_truth(self, truth: Tensor | None, num_classes: int, among: Tensor | None) -> None:
        if truth is not None and len(truth) and not 0 <= truth.min() <= truth.max() < num_classes:
            raise DataError(
                f"Labels of the {self.split.name} split run from {truth.min()} to {truth.max()}, but outputs "
                f"of the network from 0 to {num_classes - 1}. Correct them, leave them out, or say that they are "
                "numbers by --kind regression."
            )
        if truth is not None and among is not None and not (known := torch.isin(truth, among)).all():
            raise DataError(
                f"A label of the {self.split.name} split is class {int(truth[~known][0])}, which is not among the "
                f"{len(among)} classes that the network is to choose from. Add it to them."
            )

    def _keep(self, room: int) -> None:
        priority = torch.cat(self.priority)
        if len(priority) > room:
            self.bar = priority.kthvalue(room).values.item()
        stay = priority <= self.bar
        self.priority, self.kept = [priority[stay]], [torch.cat(self.kept)[stay]]
        parts = stay.split([len(rows) for rows in self.values])
        self.values = [rows[some] for rows, some in zip(self.values, parts, strict=True)]

    def _check(self, values: Tensor, batch: Batch, number: int) -> None:
        if torch.isfinite(values.sum()) or torch.isfinite(values).all():  # the sum is quick, and may overflow
            return
        inputs = batch.inputs.values() if isinstance(batch.inputs, Mapping) else [batch.inputs]
        whose = "network's output on" if all(torch.isfinite(x).all() for x in inputs) else "data in"
        raise NotFiniteError(
            f"NaN or infinity in the {whose} batch {number} of the {self.split.name} split, samples "
            f"{batch.start} to {batch.start + len(batch) - 1}. Check weights and data, or run in float32."
        )

    def outputs(self) -> Outputs:
        """What was collected. Raises DataError where nothing was."""
        if not self.num_samples:
            raise DataError(f"The {self.split.name} split is empty. Give at least one sample.")
        if self.kept:
            self._keep(max(1, KEPT_BYTES // (4 * self.values[0].shape[1])))
        whole = self.split.kind in ("embedding", "regression")
        rows = torch.arange(self.num_samples) if whole else _joined(self.sample)
        top1, truth = _joined(self.top1), _joined(self.truth) if self.truth else None
        nll, values = _joined(self.nll) if self.nll else None, _joined(self.values)
        among, notes = None if whole or self.split.classes is None else len(self.split.classes), ()
        if self.single and 0 <= (share := torch.cat(self.single)).min() <= share.max() <= 1:
            top1, values = (share > 0.5).long(), torch.stack([1 - share, share], 1).clamp_min(1e-38).log()[_joined(self.kept)]
            notes = (
                "The network's one output lies between 0 and 1 on all samples, so it is read as the probability of class 1, "
                "not as a logit.",
            )
        classes = self.split.kind.endswith("classification")
        more = doubts(self.split, top1, truth, self.values[0].shape[1]) if classes else ()
        return Outputs(
            self.split.kind,
            self.split.name,
            self.num_samples,
            rows,
            top1,
            truth,
            nll,
            _joined(self.kept),
            values,
            among=among,
            output=self.output,
            notes=notes + more,
        )


def doubts(split: Split, top1: Tensor, truth: Tensor | None, num_classes: int) -> tuple[str, ...]:
    """What makes one doubt that the network's outputs are the classes of the split, in sentences for the user."""
    if truth is None:
        if len(top1) < 20 or len(top1.unique()) > 1:
            return ()
        return (
            f"The largest output is number {int(top1[0])} for each of {len(top1)} {split.name} samples, so agreement "
            "says nothing. If the outputs are numbers and no classes, pass --kind regression.",
        )
    share = (top1 == truth).double().mean().item()
    choices = len(split.classes or range(num_classes))
    if choices < 10 or share >= 2 / choices:
        return ()
    return (
        f"Only {100 * share:.2g} % of the {split.name} labels are met, and guessing meets "
        f"{100 / choices:.2g} %: they may not be the head's classes. Map them by --classes, or pass --no-labels.",
    )


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


def _random(sample: Tensor) -> Tensor:
    """A random number in 0..1 for each row, decided by its sample and its place in it alone."""
    numbers, counts = sample.unique_consecutive(return_counts=True)
    return (
        torch.cat(
            [
                torch.rand(count, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
                for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
            ]
        )
        if len(sample)
        else torch.empty(0, dtype=torch.float64)
    )
