"""Make one layer of linear neighbours."""

from dataclasses import dataclass
from math import prod
from typing import Literal

from pydantic import Field, field_validator
from torch import nn

from delayer.edits import Edit, edit
from delayer.errors import PlanError
from delayer.fitting.evidence import Evidence
from delayer.merging import Part, merge
from delayer.merging.regions import Region, regions
from delayer.merging.surgery import check_rewritable, put_
from delayer.merging.verdict import Refusal, Repair
from delayer.network.chain import Chain
from delayer.study import Index, Size

MOST_NUMBERS = 100_000_000
"""In one input that a merge is checked on."""


@dataclass(frozen=True)
class Forms:
    """A merge in both its forms; which of them is faster is for others to measure.

    factorised: the layers as they stand; fused: the one layer. Same device and type as the network, both take the same
    input and give the same output.
    error: largest difference of the two in float64 on whole images, border included, relative to the largest output.
    repair: what made it exact. shape: of one input, without the batch; () where it is not known.
    """

    factorised: Part
    fused: nn.Module
    error: float
    repair: Repair
    shape: tuple[int, ...]


@edit("fuse")
class Fuse(Edit):
    """Linear neighbours inside one module become one layer of the same function, border included.

    Norms (with their own ε), linear layers, convolutions with any stride, padding, groups and dilation, activations that
    became linear, dropouts, and sums with a shortcut. Every merge is checked in float64 to 1e-10 of the largest output.
    Fidelity: EGP, NEPENTHE, EASIER and TLC merge nothing. The fold of convolutions that their group released (LayerFold)
    changes the function; this one does not, or is refused.
    """

    edit: Literal["fuse"] = "fuse"
    path: str
    """The module whose forward pass runs the layers: a block, or a container."""
    layers: tuple[str, ...]
    """Paths of the layers inside it, in the order in which they run; those that pass (dropouts) are named too."""
    sums: Index = 0
    """How many sums with a shortcut lie among them."""
    repair: Repair = "none"
    """none, constant_channel, bias_map (one size of image) or border_strip."""
    shape: tuple[Size, ...] = Field(default=(), max_length=8)
    """Of one input to the first layer, without the batch; the merge is checked on it."""

    @field_validator("shape")
    @classmethod
    def _can_be_held(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        if prod(shape) > MOST_NUMBERS:
            raise ValueError(f"an input of shape {list(shape)} holds {prod(shape):,} numbers, and {MOST_NUMBERS:,} are allowed")
        return shape

    @property
    def label(self) -> str:
        where = f"{self.path}: " if self.path else ""
        repaired = "" if self.repair == "none" else f" ({self.repair})"
        return f"{where}{', '.join(self.layers)} → one layer{repaired}"

    @property
    def stands_there(self) -> str:
        return "fuse"

    def forms(self, chain: Chain) -> Forms:
        """Both forms, while the chain stays as it is. Raises PlanError with the reason where the merge is refused."""
        return self._forms(chain, self._region(chain))

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> Forms:
        """Put the one layer in place, and get both forms with the proof. Raises PlanError as `forms` does."""
        region = self._region(chain)
        forms = self._forms(chain, region)
        put_(chain.model.get_submodule(self.path), region, forms.fused)
        return forms

    def _region(self, chain: Chain) -> Region:
        try:
            owner = chain.model.get_submodule(self.path)
        except AttributeError as error:
            raise PlanError(f"There is no module {self.path} in this network to merge layers of.") from error
        try:
            found = regions(owner)
        except Refusal as refusal:
            raise PlanError(f"{self._asked} cannot be merged: {refusal}. Leave this edit out of the plan.") from refusal
        for region in found:
            if region.part.paths == self.layers and region.part.num_sums == self.sums:
                return region
            for leg in region.legs() if not self.sums else ():
                for start in range(len(leg.part.paths)):
                    if leg.part.paths[start : start + len(self.layers)] == self.layers:
                        return leg.run(start, start + len(self.layers))
        known = "; ".join(", ".join(region.part.paths) for region in found) or "none"
        raise PlanError(
            f"{self._asked} with {self.sums} sums do not follow one another as linear layers. Runs that do: {known}. "
            "Name one of them, or a piece of one without its sums; an activation between two must be linearised first."
        )

    def _forms(self, chain: Chain, region: Region) -> Forms:
        try:
            if region.part.rewrites:
                check_rewritable(region)
        except Refusal as refusal:
            raise PlanError(f"{self._asked} cannot be merged: {refusal}. Merge the layers without the shortcut.") from refusal
        merged = merge(region.part, self.repair, self.shape or None, hollow=chain.hollow)
        if merged.module is None:
            raise PlanError(f"{self._asked} cannot be merged exactly: {merged.verdict.reason}.")
        like = next(region.part.parameters())
        return Forms(region.part, merged.module.to(like.device, like.dtype), merged.error, merged.verdict.repair, self.shape)

    @property
    def _asked(self) -> str:
        return f"{', '.join(self.layers)} of {self.path or 'the network'}"
