"""How good a network is, alone and against the original: accuracy, perplexity, agreement, cosine, relative error."""

import math

import torch
from torch import Tensor

from delayer.errors import DataError
from delayer.study import Grade
from delayer.tasks.divergence import CHUNK, divergence
from delayer.tasks.embeddings import likeness
from delayer.tasks.outputs import Outputs
from delayer.tasks.regression import correlation_of, root, squared_errors

NUM_RESAMPLES = 1000


def grade_of(outputs: Outputs, reference: Outputs | None = None, *, seed: int = 0) -> Grade:
    """The grade of a network, and how far it is from the original where the original's answers are given.

    Classification: top-1 accuracy over the whole head, percent, or among the split's classes, which the name then
    says; without labels the share of samples that keep the original's top-1. Language models, and encoder-decoders on the
    decoder's tokens: perplexity, exp of the mean nats a token (at most e^700, so that it stays a number). Embeddings: the
    mean cosine to the original's, percent, with `pair_correlation`, Spearman's correlation of the similarities of all pairs of
    samples. Regression: R² against the labels, percent, each output weighing the same; without labels the relative error
    against the original, percent of how much its numbers vary (0 for the original itself, about 141 for numbers that have
    nothing to do with its own).

    `error` and `correlation` say how far numbers are from the original's, with labels too. `kl` is the mean
    Kullback-Leibler divergence KL(original || network), nats: between class distributions over the whole head,
    between next-token distributions, or for embeddings between softmaxes over the cosines to all other samples at
    temperature TEMPERATURE. `interval` is 95 % by bootstrap over samples.
    reference: may hold more samples than the outputs; the first ones count.
    Raises DataError when there is nothing to grade by, or when the reference saw other data.
    """
    if outputs.kind == "regression":
        return _regression(outputs, reference, seed)
    if outputs.kind == "embedding":
        return _embedding(outputs, reference, seed)
    hits = kl = agreement = None
    if reference is not None:
        hits, kl = _against(outputs, reference)
        agreement = 100 * hits.double().mean().item() if len(hits) else None
    causal = outputs.kind in ("causal-lm", "seq2seq")
    if causal:
        name, unit, values = "perplexity", "", outputs.nll
    elif outputs.truth is not None:
        name, unit, values = "top-1 accuracy", "%", outputs.top1 == outputs.truth
    else:
        name, unit, values = "agreement", "%", hits
    if outputs.among is not None:
        name += f" among {outputs.among:,} classes"
    if values is None:
        raise _no_labels(outputs, "agreement with")
    if not len(values):
        raise DataError(f"The {outputs.split} split holds no token to predict. Give texts of two tokens or more.")
    value, interval = mean_of(values.double(), outputs.sample, seed)
    final = (lambda nats: math.exp(min(nats, 700))) if causal else (lambda share: 100 * share)
    return Grade(
        name=name,
        unit=unit,
        value=final(value),
        higher_is_better=not causal,
        kl=kl,
        agreement=agreement,
        interval=None if interval is None else (final(interval[0]), final(interval[1])),
        split=outputs.split,
        num_samples=outputs.num_samples,
    )


def _embedding(outputs: Outputs, reference: Outputs | None, seed: int) -> Grade:
    """Mean cosine to the original's vectors, and how far the network finds the same pairs alike."""
    if reference is None:
        raise _no_labels(outputs, "the cosine of their embeddings to those of")
    _same_samples(outputs, reference)
    found = likeness(outputs.values, reference.values[: outputs.num_samples])
    value, interval = mean_of(found.cosines, outputs.sample, seed)
    return Grade(
        name="cosine to the original",
        unit="%",
        value=100 * value,
        higher_is_better=True,
        kl=found.kl,
        cosine=value,
        pair_correlation=found.pair_correlation,
        interval=None if interval is None else (100 * interval[0], 100 * interval[1]),
        split=outputs.split,
        num_samples=outputs.num_samples,
    )


def _no_labels(outputs: Outputs, how: str) -> DataError:
    return DataError(
        f"The {outputs.split} split has no labels, so networks are graded by {how} the original. "
        "Pass reference=predictions(original, split)."
    )


def _regression(outputs: Outputs, reference: Outputs | None, seed: int) -> Grade:
    """R² against labels, or relative error against the original, and both sides' distance from the original."""
    error = correlation = values = None
    output = torch.arange(outputs.values.shape[1]) if outputs.output is None else outputs.output
    if reference is not None:
        _same_samples(outputs, reference)
        theirs = reference.values[: outputs.num_samples]
        values = squared_errors(outputs.values, theirs, output)
        error, correlation = root(values.mean().item()), correlation_of(outputs.values, theirs, output)
    if outputs.truth is not None:
        name, values, final = "R²", squared_errors(outputs.values, outputs.truth, output), lambda x: 100 * (1 - x)
    elif values is not None:
        name, final = "relative error", lambda x: 100 * root(x)
    else:
        raise _no_labels(outputs, "their relative error against")
    value, interval = mean_of(values, outputs.sample, seed)
    return Grade(
        name=name,
        unit="%",
        value=final(value),
        higher_is_better=outputs.truth is not None,
        error=error,
        correlation=correlation,
        interval=None if interval is None else (min(ends := (final(interval[0]), final(interval[1]))), max(ends)),
        split=outputs.split,
        num_samples=outputs.num_samples,
    )


def _same_samples(outputs: Outputs, reference: Outputs) -> int:
    """How many of the reference's rows are compared. Raises DataError when it saw other data or answers otherwise."""
    num_rows = int((reference.sample < outputs.num_samples).sum())
    if (
        (reference.kind, reference.split) != (outputs.kind, outputs.split)
        or reference.num_samples < outputs.num_samples
        or num_rows != len(outputs.sample)
        or (outputs.kind == "regression" and outputs.values.shape[1] != reference.values.shape[1])
    ):
        raise DataError(
            f"The reference holds {reference.num_samples} {reference.split} samples ({reference.kind}), "
            f"which do not match the {outputs.num_samples} {outputs.split} samples ({outputs.kind}) compared "
            "with it. Make it by predictions(original, split) on the same split."
        )
    return num_rows


def agreeing(outputs: Outputs, reference: Outputs) -> Tensor:
    """How far each row keeps the original's answer: 1 where it does and 0 where not, for embeddings the cosine."""
    if outputs.kind == "embedding":
        _same_samples(outputs, reference)
        return likeness(outputs.values, reference.values[: outputs.num_samples]).cosines
    return _against(outputs, reference)[0].double()


def _against(outputs: Outputs, reference: Outputs) -> tuple[Tensor, float]:
    """Which rows keep the original's top-1 [rows], and the mean divergence from the original."""
    num_rows = _same_samples(outputs, reference)
    hits = outputs.top1 == reference.top1[:num_rows]
    mine = outputs.values[torch.isin(outputs.kept, reference.kept)]
    theirs = reference.values[torch.isin(reference.kept, outputs.kept)]
    step = max(1, CHUNK // max(1, mine.shape[-1]))
    total = sum(divergence(p, q).sum().item() for p, q in zip(theirs.split(step), mine.split(step), strict=True))
    return hits, total / max(1, len(mine))


def mean_of(values: Tensor, sample: Tensor, seed: int) -> tuple[float, tuple[float, float] | None]:
    """The mean over rows, and its 95 % interval when samples, with all their rows, are drawn again."""
    sums, counts = (
        torch.zeros(int(sample.max()) + 1, dtype=torch.float64).index_add_(0, sample, x)
        for x in (values, torch.ones_like(values))
    )
    value, num = (sums.sum() / counts.sum()).item(), len(sums)
    if num < 2:
        return value, None
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(NUM_RESAMPLES // 50):
        drawn = torch.randint(num, (50, num), generator=generator)
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1).clamp_min(1))
    low, high = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, (low, high)
