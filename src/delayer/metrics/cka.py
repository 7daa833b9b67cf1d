"""Linear CKA between all points."""

import torch
from torch import Tensor

from delayer.metrics import metric
from delayer.stats import Hsic


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


@metric(
    title="Linear CKA", shape="pairs", redundant="high", unit="",
    source="Kornblith et al. 2019, arXiv 1905.00414; minibatch form Nguyen et al. 2021, arXiv 2010.15327",
    stat=lambda layout: Hsic(range(layout.num_points), layout.pool),
)
def cka(stat: Hsic) -> Tensor:
    """Unbiased minibatch linear CKA [points, points]: HSIC averaged over chunks of rows, then the quotient."""
    sizes, hsic = stat.chunks()
    if not len(sizes):
        return torch.eye(len(stat.points), dtype=torch.float64)
    return cka_of((sizes[:, None, None] * hsic).sum(0) / sizes.sum())
