"""A hidden state made larger or smaller up to some block, by the weights that write into it."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from delayer.edits import Edit, edit
from delayer.errors import PlanError
from delayer.fitting.evidence import Evidence
from delayer.modules.stand_in import StandIn
from delayer.network.adding import scale_
from delayer.network.chain import Chain
from delayer.study import Index

Paths = Annotated[tuple[str, ...], Field(max_length=100)]


@edit("rescale")
class Rescale(Edit):
    """All that writes into the hidden state before block `before` writes `factor` times as much; nothing is fitted or added.

    begins: paths of the embeddings. adds: paths, inside each block, of the layers whose answers are added. undo: paths of norms
    behind the last block that become 1/factor as large, since their reader shares its weights with an embedding.
    Source: Prune&Comp, Chen et al. 2025, arXiv 2507.18212.
    Fidelity: a head that shares its weights with the embedding (the paper's networks have heads of their own) is made up for by
    the final norm, exactly.
    """

    edit: Literal["rescale"] = "rescale"
    reshapes = False
    before: Index
    factor: float = Field(gt=0, allow_inf_nan=False)
    begins: Paths
    adds: Paths
    undo: Paths = ()

    @property
    def label(self) -> str:
        return f"state × {self.factor:.4g} before block {self.before}"

    @property
    def stands_there(self) -> str:
        return ""

    def check(self, chain: Chain) -> None:
        if self.before >= chain.num_blocks:
            raise PlanError(
                f"rescale aims before block {self.before}; this network has {chain.num_blocks}. Use a smaller number."
            )
        self._writing(chain)

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        if chain.hollow:  # the weights that will be filled in are scaled already
            return
        modules, undo = self._writing(chain)
        scale_(modules, self.factor)
        scale_(undo, 1 / self.factor)

    def _writing(self, chain: Chain) -> tuple[list[nn.Module], list[nn.Module]]:
        """What is scaled, and what makes up for it. Raises PlanError for a module that is not there, and behind a new map."""
        blocks = [chain.module(index) for index in range(self.before)]
        if any(isinstance(block, StandIn) and block.map is not None for block in blocks):
            raise PlanError(f"{self.label}: a map stands before that block, and is not scaled. Leave the map or this edit out.")
        try:
            modules = [chain.model.get_submodule(path) for path in self.begins]
            modules += [block.get_submodule(path) for block in blocks if not isinstance(block, StandIn) for path in self.adds]
            return modules, [chain.model.get_submodule(path) for path in self.undo]
        except AttributeError as error:
            raise PlanError(f"{self.label}: {error} in this network. Plan anew for it.") from error
