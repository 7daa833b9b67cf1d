"""One closed-form map where a span of blocks stood."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from delayer.activations.sites import Site
from delayer.edits import SpanEdit, edit
from delayer.errors import PlanError
from delayer.fitting.affine import AffineMap, fit, num_macs_a_row, num_params
from delayer.fitting.batch_norm import window_of
from delayer.fitting.ridge import best_ridge, solve_layer
from delayer.modules.conv_map import KERNELS, ConvMap
from delayer.modules.conv_map import num_params as num_conv_params
from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain, Span
from delayer.network.inside_block import Tail
from delayer.observing.stats import Moments

FEW_SAMPLES = 1e-2
"""The ridge of a convolution where there are too few samples to choose one."""

MOST_TIMES, FEW_PARAMS = 4, 2**24
"""A map of more parameters than so many original networks, and these, is refused before it is built."""


@edit("replace_span")
class ReplaceSpan(SpanEdit):
    """Blocks start .. stop-1 become one map from the span's first point to its last.

    operator: "linear" (RBA as published: least squares without bias and ridge), "affine", "diagonal", "low_rank"
    (identity plus U V in two thin factors), or, for pictures, "conv" (one convolution and the blocks' last activation).
    Source: RBA/TOAST, Cannistraci et al., arXiv 2410.04941. One map for the whole span, not a product of maps.
    Fidelity: "linear" is the paper's; bias, ridge towards the identity, the other operators are ours.
    """

    edit: Literal["replace_span"] = "replace_span"
    operator: Literal["linear", "affine", "diagonal", "low_rank", "conv"] = "affine"
    ridge: float | None = Field(default=None, ge=0)
    """Share of the mean eigenvalue of Sxx; none for "linear". For "conv" a share of the inputs' energy, by default chosen
    on held-out samples."""
    rank: int | None = Field(default=None, ge=1, le=1_000_000)
    """Rank of the update, for "low_rank": less than the width."""
    kernel: int | None = None
    """Width of the kernel, for "conv": 1, 3 or 5."""
    tail: Tail = "identity"
    """What comes behind the convolution: "relu" where the span's last block ends in one."""
    sweeps: int = Field(default=1, ge=1, le=100)
    """How often a convolution is solved; from the second time on what a ReLU hides is free, see `resolve_block`."""
    needs_stats = True

    @model_validator(mode="after")
    def _has_a_kernel(self) -> "ReplaceSpan":
        if (self.operator == "conv") != (self.kernel is not None) or self.kernel not in (None, *KERNELS):
            raise ValueError(
                f"operator {self.operator} with kernel={self.kernel}; conv takes a kernel of 1, 3 or 5, the others take none"
            )
        if (self.operator == "low_rank") != (self.rank is not None):
            raise ValueError(f"operator {self.operator} with rank={self.rank}; low_rank takes a rank, the others take none")
        return self

    @property
    def spans(self) -> tuple[Span, ...]:
        return (Span(self.start, self.stop),)

    @property
    def follows(self) -> bool:
        return self.operator == "conv"

    @property
    def label(self) -> str:
        what = {"low_rank": f"low rank {self.rank} map", "conv": f"{self.kernel}×{self.kernel} convolution"}
        return f"{Span(self.start, self.stop)} → {what.get(self.operator, f'{self.operator} map')}"

    @property
    def stands_there(self) -> str:
        return self.operator

    @property
    def gone(self) -> set[int]:
        return set(range(self.start + 1, self.stop))

    def silenced(self, sites: Sequence[Site]) -> tuple[str, ...]:
        """The convolution keeps the activation that the span ends in."""
        gone = super().silenced(sites)
        return gone[:-1] if self.tail == "relu" else gone

    def num_params(self, chain: Chain) -> int:
        width = chain.blocks[self.start].in_width
        return num_conv_params(width, self.kernel) if self.kernel else num_params(self.operator, width, self.rank)

    def num_macs(self, chain: Chain) -> int:
        block = chain.blocks[self.start]
        row = block.in_width**2 * self.kernel**2 if self.kernel else num_macs_a_row(self.operator, block.in_width, self.rank)
        return block.positions * row

    def check(self, chain: Chain) -> None:
        width = chain.check(Span(self.start, self.stop)).width
        if self.rank is not None and self.rank >= width:
            raise PlanError(f"{self.label} was asked for where the width is {width}. Use a rank between 1 and {width - 1}.")
        most = MOST_TIMES * sum(p.numel() for p in chain.model.parameters()) + FEW_PARAMS
        if self.num_params(chain) > most:
            raise PlanError(
                f"{self.label} would have {self.num_params(chain):,} parameters for a width of {width}, more than "
                f"{MOST_TIMES} whole networks. The file that says so is damaged: restore it, or cut anew."
            )

    def needs(self, chain: Chain) -> tuple[tuple[int, int], ...]:
        return () if self.kernel else (chain.ends(Span(self.start, self.stop)),)

    def apply_(self, chain: Chain, stats: Moments | None = None) -> None:
        span = Span(self.start, self.stop)
        self.check(chain)
        width = chain.check(span).width
        if self.kernel:
            map = self._convolution(chain, span, width, stats)
        elif stats is None:
            map = AffineMap(self.operator, width, rank=self.rank, axis=chain.axis)
        else:
            map = fit(stats.pair(*chain.ends(span)), self.operator, ridge=self.ridge or 0.0, rank=self.rank, axis=chain.axis)
        like = next(chain.module(self.start).parameters(), None)
        if like is not None:
            map = map.to(device=like.device, dtype=like.dtype)
        for index in range(self.start, self.stop):
            chain.replace_(index, StandIn(chain.module(index), chain.blocks[index], map if index == self.start else None))

    def _convolution(self, chain: Chain, span: Span, width: int, stats) -> ConvMap:
        """The convolution that brings what enters the span nearest to the original's total at its end."""
        if chain.axis != 1:
            raise PlanError(
                f"Span {span} was to become a convolution, but this network's features lie on axis {chain.axis}: its "
                "blocks do not pass pictures. Use the operator affine."
            )
        map = ConvMap(width, self.kernel, self.tail).double()
        if stats is None:
            return map
        if not hasattr(stats, "span"):
            raise PlanError(f"{self.label} is fitted on patches; moments of points are not enough. Give data= instead of stats=.")
        window, like, ridge = window_of(map.conv), next(chain.module(span.start).parameters()), self.ridge
        for sweep in range(self.sweeps):
            present = map.conv.to(like) if sweep else None
            fitted, heldout, tail = stats.span(span, window, present)
            if tail != self.tail:
                raise PlanError(f'Span {span} ends in {tail}, but its plan says {self.tail}. Write "tail": "{tail}" in it.')
            weight = map.conv.weight.detach().flatten(1).double()
            both = fitted.num_rows and heldout.num_rows  # fewer than five samples leave nothing to choose by
            if ridge is None:
                ridge = best_ridge(fitted, heldout, weight) if both else FEW_SAMPLES
            fitted.merge(heldout)
            weight, bias = solve_layer(fitted, weight, ridge=ridge)
            map.double()
            map.conv.weight.data, map.conv.bias.data = weight.reshape(map.conv.weight.shape), bias
        return map
