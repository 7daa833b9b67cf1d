"""The loss of a short fine-tune: how far a network's answer is from its teacher's, and from the labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from delayer.tasks.answers import answer_rows, as_logits, pooled
from delayer.tasks.options import Kind
from delayer.tasks.splits import Batch

ENOUGH = 8
"""Samples from which on a batch says how much an output varies."""


def distance(
    output: Tensor,
    taught: Tensor | None,
    batch: Batch,
    kind: Kind,
    *,
    temperature: float = 1.0,
    teacher_weight: float = 1.0,
    label_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """One number to make small, a mean over the batch's samples (or over its predicted tokens).

    output, taught: what the network and its teacher answer; logits of classes [n, c] or of next tokens
    [n, positions, c], or hidden states. taught may be None: then the labels teach alone.
    Classes and tokens: teacher_weight · T² KL(teacher ‖ network), both softened by temperature T, plus
    label_weight · cross-entropy where there are labels. A language model's labels are the next tokens;
    padding counts for nothing.
    Embeddings: ‖network − teacher‖² / ‖teacher‖² of the pooled vectors; labels play no part.
    Regression: the mean squared error of each output over how much it varies in this batch, weighed likewise.
    Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531 (the factor T² keeps the gradients' scale).
    """
    if kind == "embedding":
        if taught is None:
            raise ValueError("Hidden states are learnt from a teacher alone. Give taught=, what it answers.")
        mine, theirs = (pooled(x, batch.mask_for(x.shape[1])).float() for x in (output, taught))
        return ((mine - theirs).square().sum(1) / theirs.square().sum(1).clamp_min(1e-12)).mean()
    if kind == "regression":
        aims = [(teacher_weight, taught), (label_weight, None if batch.labels is None else batch.labels.reshape(output.shape))]
        return sum(
            (weight * _squared_error(output.float(), aim.float()) for weight, aim in aims if weight and aim is not None),
            output.new_zeros((), dtype=torch.float32),
        )
    total, num_rows = output.new_zeros((), dtype=torch.float32), 0
    pieces = answer_rows(output, batch, kind)
    taught_pieces = answer_rows(taught, batch, kind) if taught is not None else iter(())
    for _, logits, truth in pieces:
        logits, num_rows = as_logits(logits.float()), num_rows + len(logits)
        if taught is not None:
            theirs = as_logits(next(taught_pieces)[1].float())
            mine, theirs = ((x / temperature).log_softmax(1) for x in (logits, theirs))
            divergence = F.kl_div(mine, theirs, log_target=True, reduction="sum")
            total = total + teacher_weight * temperature**2 * divergence
        if truth is not None and label_weight:
            entropy = F.cross_entropy(logits, truth, label_smoothing=label_smoothing, reduction="sum")
            total = total + label_weight * entropy
    return total / max(num_rows, 1)


def _squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Each output's mean squared error over how much it varies in the batch, the mean over outputs, so that units play no part.

    Where it does not vary, or under ENOUGH samples, over its mean square.
    """
    found, wanted = (x[:, None] if x.ndim == 1 else x for x in (found, wanted))
    axis = 1 if wanted.ndim > 3 else wanted.ndim - 1
    others = [k for k in range(wanted.ndim) if k != axis]
    size = wanted.square().mean(others)
    spread = (wanted - wanted.mean(0)).square().mean(others)
    scale = torch.where((spread > 1e-6 * size) & (len(wanted) >= ENOUGH), spread, torch.where(size > 0, size, 1.0))
    return ((found - wanted).square().mean(others) / scale).mean()
