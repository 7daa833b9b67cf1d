"""A surviving block that chooses its hidden units among its own and those of the blocks removed behind it."""

from typing import Literal

from pydantic import Field

from delayer.edits import edit
from delayer.edits.resolve_block import SolveLast
from delayer.errors import ModelError, PlanError
from delayer.fitting.evidence import Evidence
from delayer.fitting.layer import best_ridge, solve_layer
from delayer.fitting.units import Wider, most_useful
from delayer.network.chain import Chain
from delayer.study import Index

CHOICE_RIDGE = 0.1
"""The ridge under which units are chosen: there are more features than the layer will have, from the same samples."""


@edit("adopt_units")
class AdoptUnits(SolveLast):
    """A block that stays keeps the best hidden units of its own and of removed blocks; its last layer is solved anew.

    Closed form, no new parameter, no other shape: the rows of removed blocks' feeding layers (fc1; gate and up) stand beside
    the block's own, with the norms' gains folded in; those are given up one after another that the target can best do without,
    and the last layer is solved for the rest as in `resolve_block`.
    Source: ours; what is given up is found as in Optimal Brain Surgeon (Hassibi & Stork 1993).
    """

    edit: Literal["adopt_units"] = "adopt_units"
    donors: tuple[Index, ...] = Field(min_length=1, max_length=1000)
    """The removed blocks whose units compete."""

    @property
    def label(self) -> str:
        return f"{super().label}, with units of {', '.join(map(str, self.donors))}"

    def check(self, chain: Chain) -> None:
        super().check(chain)
        if len(set(self.donors)) < len(self.donors):
            raise PlanError(f"adopt_units {self.block} names a donor twice: {self.donors}. Name each once.")
        if wrong := [donor for donor in self.donors if donor == self.block or donor >= chain.num_blocks]:
            raise PlanError(
                f"adopt_units {self.block} names block {wrong[0]} of {chain.num_blocks}; donors are other blocks of the network."
            )

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        self.check(chain)
        if evidence is None:  # its shapes are the old ones
            return
        streams = evidence.streams(f"adopt_units {self.block}")
        donors = [streams.original.module(donor) for donor in self.donors]
        try:
            wide = Wider(chain.module(self.block), donors, streams.first_run(self.block))
            with wide.standing():
                wide.check(streams.first_run(self.block))
                fit, heldout, _ = streams.last_layer(self.block, self.aim, hold_out=self.ridge is None)
        except ModelError as error:
            raise PlanError(
                f"Block {self.block} cannot take units of {self.donors}: {error} Use resolve_block {self.block} instead."
            ) from error
        has_bias = chain.module(self.block).get_submodule(wide.units.last).bias is not None
        keep = most_useful(fit, wide.last, wide.num_own, ridge=CHOICE_RIDGE, bias=has_bias)
        fit, heldout, weight = fit.only(keep), heldout.only(keep), wide.last[:, keep]
        ridge = best_ridge(fit, heldout, weight, bias=has_bias) if self.ridge is None else self.ridge
        fit.merge(heldout)
        wide.keep_(keep, *solve_layer(fit, weight, ridge=ridge, bias=has_bias))
