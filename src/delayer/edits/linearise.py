"""Make one activation linear."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from delayer.activations.kinds import activation_of
from delayer.activations.normal import Normal
from delayer.activations.separate import separate_
from delayer.activations.sites import Site
from delayer.activations.switches import Switches
from delayer.edits import Edit, edit
from delayer.errors import ModelError, PlanError
from delayer.fitting.evidence import Evidence
from delayer.modules.linearised import Linearised
from delayer.network.chain import Chain

Mode = Literal["identity", "sign", "affine"]


@edit("linearise")
class Linearise(Edit):
    """One activation becomes linear, channel by channel.

    mode: "identity" (EASIER), "sign" (TLC: mostly-ON channels pass, mostly-OFF ones become exactly 0, their bias
    included) or "affine" (the best scale · z + shift; exact where a unit is always on or always off).
    Sources: EASIER, Quétu et al., arXiv 2404.18949; TLC, Liao et al., arXiv 2412.15077.
    Fidelity: TLC's released code masks the weights and forgets the bias; "affine" is ours.
    """

    edit: Literal["linearise"] = "linearise"
    site: str
    """Path of the activation, as `delayer sites` names it."""
    mode: Mode = "identity"
    num_features: int = Field(ge=1, le=10_000_000)
    axis: int = Field(default=1, ge=-8, le=8)
    """Where the features are."""

    @property
    def needs_stats(self) -> bool:
        return self.mode != "identity"

    @property
    def label(self) -> str:
        return f"{self.site} → {self.mode}" if self.mode == "identity" else f"{self.site} → linear ({self.mode})"

    @property
    def stands_there(self) -> str:
        return self.mode

    @property
    def watches(self) -> tuple[str, ...]:
        return (self.site,) if self.needs_stats else ()

    def place(self, chain: Chain) -> str:
        return self.site

    def silenced(self, sites: Sequence[Site]) -> tuple[str, ...]:
        return (self.site,)

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        """Change the chain. Where the evidence knows a norm's parameters, "sign" needs no data."""
        parent, _, name = self.site.rpartition(".")
        try:
            owner = chain.model.get_submodule(parent)
        except AttributeError as error:
            raise PlanError(f"There is no module {parent} in this network to make {self.site} linear.") from error
        try:
            separate_(owner, parent)
        except ModelError:
            if name not in owner._modules:
                raise
        if name not in owner._modules:
            raise PlanError(f"{parent or 'The network'} has no activation {name}. `delayer sites` lists those that it has.")
        present = owner.get_submodule(name)
        if activation_of(present) is None and not isinstance(present, Linearised | nn.Identity):
            raise PlanError(
                f"{self.site} is a {type(present).__name__} and no activation. `delayer sites` lists those that there are."
            )
        switches = evidence.switches(self.site) if evidence is not None and self.needs_stats else None
        weights = next(owner.parameters(), next(chain.model.parameters(), None))
        owner.set_submodule(name, self.module(switches, weights).train(owner.training))

    def module(self, switches: Switches | Normal | None, like: Tensor | None = None) -> nn.Module:
        """What stands at the site; with no statistics its shape alone. like: whose device and type it takes."""
        if self.mode == "identity":
            return nn.Identity()
        linear = Linearised(self.num_features, self.axis)
        linear = linear if like is None else linear.to(like.device, like.dtype)
        if switches is None:
            return linear
        if self.mode == "sign":
            scale = switches.mostly_on().double()
            shift = torch.zeros_like(scale)
        elif isinstance(switches, Normal):
            raise PlanError(
                f"{self.site} is to become its best line, which data tell and the parameters of its norm do not. "
                'Give data=, or write "mode": "sign".'
            )
        else:
            scale, shift, _, _ = switches.best_line()
        if len(scale) != self.num_features:
            raise PlanError(
                f"{self.site} passes {len(scale)} features, and its edit says {self.num_features}. "
                "`delayer sites` knows the number."
            )
        linear.scale.copy_(scale)
        linear.shift.copy_(shift)
        return linear
