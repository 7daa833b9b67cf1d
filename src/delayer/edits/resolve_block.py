"""A surviving block's linear layers, solved anew for the network that is left."""

from typing import Literal

from pydantic import Field

from delayer.edits import FitBlock, edit
from delayer.errors import PlanError
from delayer.fitting.batch_norm import folded, takes_bias, unfold_, whole
from delayer.fitting.evidence import Evidence
from delayer.fitting.layer import best_ridge, solve_layer
from delayer.network.chain import Chain
from delayer.network.inside_block import Run
from delayer.observing.stats.patch_moments import PatchMoments
from delayer.study import Index


class SolveLast(FitBlock):
    """An edit that solves a block's last linear layer anew for the network that is left."""

    target: Index | None = None
    """The block of the original whose total it aims at; itself where not given."""
    ridge: float | None = Field(default=None, ge=0)
    """Pull towards the old weights, a share of the inputs' energy; chosen on held-out samples where not given."""

    @property
    def aim(self) -> int:
        """The block of the original whose total it aims at."""
        return self.block if self.target is None else self.target

    @property
    def label(self) -> str:
        aim = "" if self.aim == self.block else f" for block {self.aim}"
        return f"block {self.block} solved anew{aim}"

    def check(self, chain: Chain) -> None:
        if not self.block <= self.aim < chain.num_blocks:
            raise PlanError(
                f"{self.edit} {self.block} aims at block {self.aim} of {chain.num_blocks}; "
                f"a block can stand for itself and for those behind it. Use a target from {self.block} on."
            )


@edit("resolve_block")
class ResolveBlock(SolveLast):
    """A block that stays has its last linear layer solved anew from the features that it now reads.

    Closed form, no new parameter: the layer (with its batch norm folded in, exactly) answers what brings the block's
    total nearest to the original's total behind block `target`, before the last activation; ridge towards its old weights.
    So a kept block mends what came before it, and takes over the blocks removed behind it.
    Source: ours; kin to ReplaceMe (arXiv 2505.02819), which folds a map behind a decoder's MLP.
    """

    edit: Literal["resolve_block"] = "resolve_block"
    layers: Literal["last", "all"] = "last"
    """The last linear layer, or all: those before it are first solved to answer what they answer in the original."""
    sweeps: int = Field(default=1, ge=1, le=100)
    """How often a layer is solved. From the second time on what a ReLU hides is free: what should be negative may be any
    negative number, so that the layer's strength goes where it shows."""

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        self.check(chain)
        if evidence is None:  # its shapes are the old ones
            return
        streams = evidence.streams(f"resolve_block {self.block}")
        if self.layers == "all":
            for path in streams.inner_paths(self.block):
                if whole(chain.module(self.block).get_submodule(path)):
                    ridge = self.ridge
                    for sweep in range(self.sweeps):
                        gathered = streams.inner_layer(self.block, path, hidden_free=sweep > 0, hold_out=ridge is None)
                        ridge = self._solve_(chain, *gathered, path, ridge)
        ridge = self.ridge
        for sweep in range(self.sweeps):
            fit, heldout, run = streams.last_layer(self.block, self.aim, hidden_free=sweep > 0, hold_out=ridge is None)
            ridge = self._solve_(chain, fit, heldout, run, "", ridge)
            if run.tail == "identity":
                break

    def _solve_(self, chain: Chain, fit: PatchMoments, heldout: PatchMoments, run: Run, path: str, ridge: float | None) -> float:
        """Solve one layer, and get the ridge: further sweeps keep it, since targets made of present answers say nothing of it."""
        linear, norm, weight, _ = folded(chain.module(self.block), run, path)
        bias = takes_bias(linear, norm)
        if ridge is None:
            ridge = best_ridge(fit, heldout, weight, bias=bias)
        fit.merge(heldout)
        new, shift = solve_layer(fit, weight, ridge=ridge, bias=bias)
        mean, variance = None, None
        if norm is not None:
            mean_x, _, xx, _, _ = fit.about("mean")
            mean, variance = new @ mean_x, (new @ xx.to(new.dtype) * new).sum(1) / fit.num_rows
        unfold_(linear, norm, new, shift, mean, variance)
        return ridge
