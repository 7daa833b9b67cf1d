"""A span's place taken by a patch that turns, scales channels and turns back."""

from typing import Literal

import torch
from torch import Tensor

from delayer.edits import SpanEdit, edit
from delayer.errors import ModelError, PlanError
from delayer.fitting.evidence import Evidence
from delayer.fitting.hadamard import hadamard
from delayer.fitting.sizes import mean_sizes
from delayer.modules.feature_maps import DenseMap
from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain, Span


@edit("linear_patch")
class LinearPatch(SpanEdit):
    """Blocks start .. stop-1 become x P with P = H D Hᵀ, one symmetric matrix: d² parameters.

    H: an orthonormal Hadamard matrix, which spreads the massive activations of single tokens and channels over all channels.
    D: for each turned channel its mean size behind the span over that before it, mean |h' H| / mean |h H| over the tokens of each
    sample of the original, averaged over samples.
    Source: LinearPatch, Chen et al. 2025, arXiv 2505.24680.
    Fidelity: H is made by Sylvester's and Paley's constructions, in the released code taken from tables; for powers of two both
    are the same. Padding does not enter the sizes.
    """

    edit: Literal["linear_patch"] = "linear_patch"

    @property
    def needs_stats(self) -> bool:
        return True

    @property
    def follows(self) -> bool:
        return True

    @property
    def label(self) -> str:
        return f"{Span(self.start, self.stop)} → linear patch"

    @property
    def stands_there(self) -> str:
        return "linear patch"

    @property
    def gone(self) -> set[int]:
        return set(range(self.start + 1, self.stop))

    def num_params(self, chain: Chain) -> int:
        return chain.blocks[self.start].in_width ** 2

    def num_macs(self, chain: Chain) -> int:
        return chain.blocks[self.start].positions * self.num_params(chain)

    def check(self, chain: Chain) -> None:
        _turn(chain.check(Span(self.start, self.stop)).width)

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        span = Span(self.start, self.stop)
        width = chain.check(span).width
        map = DenseMap(width, chain.axis, bias=False)
        if evidence is not None:
            streams = evidence.streams(f"linear_patch {span}")
            with torch.no_grad():
                map.weight.copy_(patch(streams.original, span, streams.batches))
        like = next(chain.module(self.start).parameters(), None)
        map = map if like is None else map.to(device=like.device, dtype=like.dtype)
        for index in range(self.start, self.stop):
            chain.replace_(index, StandIn(chain.module(index), chain.blocks[index], map if index == self.start else None))


def patch(chain: Chain, span: Span, batches) -> Tensor:
    """P [d, d] in float64. Raises ModelError where a turned channel is zero everywhere, PlanError for a width without H."""
    turn = _turn(chain.check(span).width)
    before, after = chain.ends(span)
    sizes = mean_sizes(chain, (before, after), batches, turn=turn)
    scale = (sizes[after] / sizes[before]).mean(0)
    if not torch.isfinite(scale).all():
        raise ModelError(
            f"A channel before span {span} is zero in a whole sample, so that no factor matches its size. Drop the span."
        )
    return turn @ torch.diag(scale) @ turn.T


def _turn(width: int) -> Tensor:
    if (found := hadamard(width)) is None:
        raise PlanError(
            f"A linear patch turns features by a Hadamard matrix, and none of width {width} is known here (widths such as 2^k, "
            "3·2^k, 5·2^k, 7·2^k are). Use another method, such as ghosted."
        )
    return found
