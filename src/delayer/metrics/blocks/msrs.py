"""MSRS, the model structural redundancy score: how many pairs of layers say the same, counted softly."""

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from delayer.metrics.blocks import Layout, metric
from delayer.metrics.blocks.cka import cka_of
from delayer.metrics.intervals import mean_interval
from delayer.observing.stats import Hsic
from delayer.study import Record

SOURCE = "Lu et al. 2024 (RedTest), arXiv 2411.10507"
TAU, BETA = 0.8, 100.0
ENOUGH_BATCHES = 4
"""From which on the interval is less than 1.6 standard deviations of a batch to each side; nine with two batches."""


def msrs_of(similarities: Tensor, *, tau: float = TAU, beta: float = BETA) -> Tensor:
    """The score [...] of similarities [..., layers, layers]: Σ_{i<j} sigmoid(2β(s_ij − τ)), from 0 to L(L − 1)/2.

    A similarity that is NaN counts as none. A single layer has no pair, and scores 0.
    Source: Lu et al. 2024 (RedTest), arXiv 2411.10507.
    Fidelity: the released code writes the same as a quotient of exponentials, which overflows for s < −0.087.
    """
    return torch.sigmoid(2 * beta * (_pairs(similarities) - tau)).sum(-1)


def _pairs(similarities: Tensor) -> Tensor:
    """Similarities [..., pairs] of all layers i < j, in float64."""
    above = torch.triu(torch.ones(similarities.shape[-2:], dtype=torch.bool, device=similarities.device), diagonal=1)
    return similarities[..., above].double().nan_to_num(nan=-torch.inf)


def batch_similarities(stat: Hsic) -> Tensor:
    """CKA [batches, layers, layers] of each batch on its own.

    A last batch of less than half the size is noisier and is left out, unless it is all there is. Under 4 samples
    there is no estimate: one matrix of NaN then.
    """
    sizes, hsic = stat.chunks()
    if not len(sizes):
        return torch.full((1, len(stat.points), len(stat.points)), torch.nan, dtype=torch.float64)
    return cka_of(hsic[sizes >= min(stat.batch_size / 2, sizes.max())])


def layer_hsic(layout: Layout) -> Hsic:
    """HSIC between all layers, in batches of 256 samples."""
    return Hsic(layout.layers, layout.pool)


def msrs_warnings(stat: Hsic, *, layout: Layout) -> Iterator[str]:
    """Sentences that say where there are too few samples, or layers that it does not know."""
    sizes, hsic = stat.chunks()
    if not len(sizes):
        yield (
            f"MSRS needs batches of at least 4 samples and found {stat.num_rows} in all, so no two layers could be "
            "compared and it is 0. Give more data (--num-fit)."
        )
    elif (sizes >= min(stat.batch_size / 2, sizes.max())).sum() == 1:
        yield (
            f"MSRS was read from one batch, of {int(sizes.max())} samples, so it has no interval; published values "
            f"are means over batches of {stat.batch_size}. Give at least {2 * stat.batch_size} samples (--num-fit)."
        )
    elif 1 < (num := int((sizes >= min(stat.batch_size / 2, sizes.max())).sum())) < ENOUGH_BATCHES:
        yield (
            f"The interval of MSRS is from {num} batches (Student's t), too few to say how far another draw would lie; "
            f"published values are means over ten. Give at least {ENOUGH_BATCHES * stat.batch_size} samples (--num-fit)."
        )
    constant = (torch.diagonal(hsic, dim1=-2, dim2=-1) <= 0).any(0).nonzero().flatten().tolist()
    if len(sizes) and constant:
        yield (
            f"{len(constant)} of {len(layout.layers)} layers (the first is number {constant[0]}) are constant on a "
            "batch; they count as unlike every other layer."
        )
    if len(layout.layers) < 2:
        yield "This network has one layer only, so there is no pair to compare and MSRS is 0. Name more with --blocks."
    if len(kinds := dict.fromkeys(layout.kinds)) > 1:
        yield (
            f"The layers differ in kind ({', '.join(kinds)}); MSRS counts pairs across kinds too. Name the blocks of "
            "one kind with --blocks to compare like with like."
        )


class MsrsOptions(Record):
    """How similar layers are counted."""

    tau: float | None = Field(default=None, gt=-1, lt=1)
    """Similarity from which on MSRS counts two layers as the same; by default 0.8, and 0.7 for VGG."""
    beta: float = Field(default=BETA, gt=0)
    """How sharply MSRS counts: large values count pairs above tau as one and pairs below as nothing."""


@metric(
    title="MSRS",
    shape="network",
    redundant="high",
    unit="of all pairs of layers",
    source=SOURCE,
    stat=layer_hsic,
    fewest=ENOUGH_BATCHES * 256,
    warnings=msrs_warnings,
    options=MsrsOptions,
)
def msrs(stat: Hsic, *, layout: Layout, tau: float | None = None, beta: float = BETA) -> dict[str, float]:
    """The score's share of its maximum L(L − 1)/2, with a 95 % interval over batches; then the raw score and its parts.

    Each batch of 256 samples is scored on its own and scores are averaged; spread is their standard deviation.
    "pairs above tau" is the hard count, averaged likewise. tau: by default the family's.
    Source: Lu et al. 2024 (RedTest), arXiv 2411.10507.
    Fidelity: τ = 0.8 and β = 100 as published, 0.7 for VGG. The paper takes the first ten batches of the test split;
    here it is the fit split. The share, and the interval (Student's t over batches), are ours.
    """
    tau = layout.tau if tau is None else tau
    similarities = batch_similarities(stat)
    scores, pairs = msrs_of(similarities, tau=tau, beta=beta), _pairs(similarities)
    most = max(pairs.shape[-1], 1)
    low, high = mean_interval((scores / most).tolist())
    interval = {} if low is None or high is None else {"low": max(low, 0.0), "high": min(high, 1.0)}
    return {
        "share": float(scores.mean()) / most,
        **interval,
        "score": float(scores.mean()),
        "maximum": pairs.shape[-1],
        "layers": len(layout.layers),
        "pairs above tau": float((pairs > tau).sum(-1).double().mean()),
        **({} if low is None else {"spread": float(scores.std())}),
        "batches": len(scores),
        "tau": tau,
        "beta": beta,
    }
