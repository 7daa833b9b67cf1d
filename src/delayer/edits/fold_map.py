"""A map that stands for removed blocks, folded into the last linear layer of the block before them."""

from typing import Literal

from torch import nn

from delayer.edits import FitBlock, edit
from delayer.errors import PlanError
from delayer.fitting.evidence import Evidence
from delayer.fitting.seam import Seams, cosine_map, fold_, least_squares_map
from delayer.network.chain import Chain
from delayer.study import Index

Solver = Literal["least_squares", "cosine"]


@edit("fold_map")
class FoldMap(FitBlock):
    """A block's last linear layer takes over the blocks behind it up to `target`, which are to be dropped besides.

    With M what the layer says, h what the block answers and h' what the target answers, all in the original: T with
    M T ≈ h' − h + M, then W ← Tᵀ W. No new parameter.
    solver: "least_squares" (normal equations in float64) or "cosine" (Adam on 1 − cos).
    Source: ReplaceMe, Shopkhoev et al. 2025, arXiv 2505.02819.
    Fidelity: padding does not enter the fit, which it does in the released code; a span that ends with the last block is fitted
    on the state before the final norm, there on the one behind it; the inverse of the normal equations is a pseudo-inverse, so
    that directions that the layer never says are left out. The cosine is the code's default: between M T and the target of the
    least squares, not between whole states.
    """

    edit: Literal["fold_map"] = "fold_map"
    target: Index
    """The last of the removed blocks."""
    solver: Solver = "least_squares"

    @property
    def label(self) -> str:
        how = "" if self.solver == "least_squares" else ", by cosine"
        return f"block {self.block} takes over up to {self.target}{how}"

    def check(self, chain: Chain) -> None:
        if not self.block < self.target < chain.num_blocks:
            raise PlanError(
                f"fold_map {self.block} aims at block {self.target} of {chain.num_blocks}; a block takes over blocks behind it. "
                f"Use a target from {self.block + 1} on."
            )
        if any(chain.blocks[k].outlet != chain.blocks[k + 1].inlet for k in range(self.block, self.target)):
            raise PlanError(
                f"Something works between the blocks {self.block} and {self.target}, so the first cannot stand for the other. "
                "Choose blocks that hand on to each other."
            )

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        self.check(chain)
        if evidence is None:  # its shapes are the old ones
            return
        streams = evidence.streams(f"fold_map {self.block}")
        seams = Seams(streams.original, self.block, self.target, streams.batches, streams.rows, streams.seed)
        map = cosine_map(seams, seed=streams.seed) if self.solver == "cosine" else least_squares_map(seams)
        layer = chain.module(self.block).get_submodule(seams.path)
        assert isinstance(layer, nn.Linear)  # which is what `Seams` has checked
        fold_(layer, map)
