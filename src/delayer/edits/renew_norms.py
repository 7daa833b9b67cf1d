"""Batch norms that count their statistics anew in the network that is left."""

from typing import Literal

from torch.nn.modules.batchnorm import _BatchNorm

from delayer.edits import FitInPlace, edit
from delayer.errors import PlanError
from delayer.fitting.evidence import Evidence
from delayer.network.chain import Chain


@edit("renew_norms")
class RenewNorms(FitInPlace):
    """Every batch norm gets the mean and variance of what it reads now, averaged over the batches of the fit data.

    Helps where blocks were dropped and nothing else was done; solving blocks anew brings its own statistics. No step, no
    label, no new parameter.
    """

    edit: Literal["renew_norms"] = "renew_norms"

    @property
    def label(self) -> str:
        return "batch norms counted anew"

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        if evidence is None:  # its shapes are the old ones
            return
        norms = [m for m in chain.model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not norms:
            raise PlanError(
                f"renew_norms found no batch norm with statistics in {type(chain.model).__name__}. Take it out of the plan."
            )
        streams = evidence.streams("renew_norms")
        habits = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain average over batches
        try:
            streams.run_all(norms)
        finally:
            for norm, momentum in zip(norms, habits, strict=True):
                norm.momentum = momentum
