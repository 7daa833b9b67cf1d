"""How a network's answer is read: rows of logits with their truth, probabilities as logits, one vector a sample."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from delayer.errors import DataError
from delayer.tasks.kinds import is_probability, token_ids
from delayer.tasks.options import Kind
from delayer.tasks.splits import Batch


def as_logits(output: Tensor) -> Tensor:
    """What a softmax gives back where the output [rows, classes] is probabilities already; else the output."""
    return output.float().clamp_min(1e-38).log() if is_probability(output) else output


def answer_rows(output: Tensor, batch: Batch, kind: Kind) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Sample numbers [rows], logits [rows, classes] and truth [rows], a piece at a time."""
    start, num = batch.start, len(batch)
    if kind not in ("causal-lm", "seq2seq"):
        if output.shape[1] == 1:  # one logit, of class 1 against class 0
            output = torch.cat([torch.zeros_like(output), output], 1)
        yield torch.arange(start, start + num), output, batch.labels
        return
    ids, mask = token_ids(batch.inputs), batch.mask
    if kind == "seq2seq":
        inputs = batch.inputs if isinstance(batch.inputs, Mapping) else {}
        ids, mask = inputs.get("decoder_input_ids"), inputs.get("decoder_attention_mask")
    if ids is None:
        what = "decoder_input_ids" if kind == "seq2seq" else "token numbers"
        raise DataError(f"The task is {kind}, but its inputs hold no {what}. Name the kind of task that fits (--kind).")
    for i in range(num):  # one by one, since logits of a whole batch once more may not fit into memory
        real = torch.ones_like(ids[i, 1:], dtype=torch.bool)
        if mask is not None:
            real = mask[i, 1:].bool() & mask[i, :-1].bool()
        logits, truth = output[i, :-1], ids[i, 1:]
        if not real.all():
            logits, truth = logits[real], truth[real]
        yield torch.full((len(truth),), start + i), logits, truth.long()


def pooled(output: Tensor, mask: Tensor | None) -> Tensor:
    """One vector a sample: the mean over real tokens [n, tokens, width], or over pixels [n, width, h, w]."""
    if output.ndim == 2:
        return output
    if output.ndim > 3:
        return output.flatten(2).mean(2)
    if mask is None or mask.shape[1] != output.shape[1]:
        return output.mean(1)
    real = mask.bool()[..., None]
    # Where a token is padding its state may be anything, NaN included.
    return output.masked_fill(~real, 0).sum(1) / real.sum(1).clamp_min(1)
