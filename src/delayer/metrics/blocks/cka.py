"""Linear CKA between all points."""

from collections.abc import Iterator

import torch
from torch import Tensor

from delayer.metrics.blocks import metric
from delayer.observing.stats import Hsic

FEWEST = 32
"""Samples: unrelated features of five directions have a CKA of 0 ± 0.05 (standard deviation) then; ± 0.22 at 8, ± 0.7 at 4."""


def cka_of(hsic: Tensor) -> Tensor:
    """CKA [..., points, points] from HSIC of the same shape: s_ij = HSIC_ij / √(HSIC_ii HSIC_jj).

    The unbiased estimate may be negative. Constant features (HSIC_ii ≤ 0) are similar to themselves alone: 1 on the
    diagonal, 0 elsewhere.
    """
    own = torch.diagonal(hsic, dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = own[..., :, None] * own[..., None, :]
    values = torch.where(scale > 0, hsic / scale.clamp_min(1e-300), 0.0)
    eye = torch.eye(hsic.shape[-1], dtype=torch.bool)
    return torch.where(eye, 1.0, values)


def cka_warnings(stat: Hsic) -> Iterator[str]:
    """Sentences that say where there are too few samples, or too few in a batch, for this width."""
    sizes, hsic = stat.chunks()
    if not len(sizes):
        yield (
            f"Linear CKA has no unbiased estimate under 4 samples and found {stat.num_rows}, so its zeros mean nothing. Give "
            f"at least {FEWEST} samples (--num-fit)."
        )
        return
    if stat.num_rows < FEWEST:
        yield (
            f"Linear CKA was read from {stat.num_rows} samples; under {FEWEST} it is mostly chance, and features that have "
            "nothing to do with each other may look alike. Give more data (--num-fit)."
        )
    if constant := (torch.diagonal(hsic, dim1=-2, dim2=-1) <= 0).all(0).nonzero().flatten().tolist():
        yield (
            f"The features at {len(constant)} of {len(stat.points)} points (the first is number {constant[0]}) are the same "
            "for all samples; Linear CKA has them unlike all others."
        )


@metric(
    title="Linear CKA",
    shape="pairs",
    redundant="high",
    unit="",
    source="Kornblith et al. 2019, arXiv 1905.00414; minibatch form Nguyen et al. 2021, arXiv 2010.15327",
    stat=lambda layout: Hsic(range(layout.num_points), layout.pool),
    fewest=FEWEST,
    warnings=cka_warnings,
)
def cka(stat: Hsic) -> Tensor:
    """Unbiased minibatch linear CKA [points, points]: HSIC averaged over chunks of rows, then the quotient."""
    sizes, hsic = stat.chunks()
    if not len(sizes):
        return torch.eye(len(stat.points), dtype=torch.float64)
    return cka_of((sizes[:, None, None] * hsic).sum(0) / sizes.sum())
