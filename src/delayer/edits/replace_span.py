"""One closed-form map where a span of blocks stood."""

from typing import Literal

from delayer.affine import AffineMap, fit
from delayer.chain import Chain, Span
from delayer.edits import Edit, edit
from delayer.standin import StandIn
from delayer.stats import Moments


@edit("replace_span")
class ReplaceSpan(Edit):
    """Blocks start .. stop-1 become one map from the span's first point to its last.

    operator: "linear" (RBA as published: least squares without bias and ridge), "affine", "diagonal" or "low_rank"
    (identity plus U V in two thin factors).
    Source: RBA/TOAST, Cannistraci et al., arXiv 2410.04941. One map for the whole span, not a product of maps.
    Fidelity: "linear" is the paper's; bias, ridge towards the identity, the diagonal and the low-rank update are ours.
    """

    edit: Literal["replace_span"] = "replace_span"
    start: int
    stop: int
    operator: Literal["linear", "affine", "diagonal", "low_rank"] = "affine"
    ridge: float | None = None
    """Share of the mean eigenvalue of Sxx; none for "linear"."""
    rank: int | None = None
    """Rank of the update, for "low_rank"."""
    needs_stats = True

    @property
    def spans(self) -> tuple[Span, ...]:
        return (Span(self.start, self.stop),)

    @property
    def label(self) -> str:
        operator = f"low rank {self.rank}" if self.operator == "low_rank" else self.operator
        return f"{Span(self.start, self.stop)} → {operator} map"

    @property
    def stands_there(self) -> str:
        return self.operator

    @property
    def gone(self) -> set[int]:
        return set(range(self.start + 1, self.stop))

    def needs(self, chain: Chain) -> tuple[tuple[int, int], ...]:
        return (chain.ends(Span(self.start, self.stop)),)

    def apply_(self, chain: Chain, stats: Moments | None = None) -> None:
        span = Span(self.start, self.stop)
        segment = chain.check(span)
        if stats is None:
            map = AffineMap(self.operator, segment.width, rank=self.rank, axis=chain.axis)
        else:
            map = fit(stats.pair(*chain.ends(span)), self.operator, ridge=self.ridge or 0.0, rank=self.rank,
                      axis=chain.axis)
        like = next(chain.module(self.start).parameters(), None)
        if like is not None:
            map = map.to(device=like.device, dtype=like.dtype)
        for index in range(self.start, self.stop):
            chain.replace_(index, StandIn(chain.module(index), chain.blocks[index].returns,
                                          map if index == self.start else None))
