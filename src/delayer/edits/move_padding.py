"""Move the padding of a convolution to the one before it, so that both merge exactly later on."""

from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvNd

from delayer.edits import Edit, edit
from delayer.errors import PlanError
from delayer.fitting.evidence import Evidence
from delayer.network.chain import Chain


@edit("move_padding")
class MovePadding(Edit):
    """The first convolution pads by p1 + s1·p2, the second by nothing; images keep their sizes.

    It CHANGES THE FUNCTION at the border: apply it before fine-tuning. Between the two only what works pixel by pixel
    may stand. Afterwards they merge as they are, whatever their biases.
    """

    edit: Literal["move_padding"] = "move_padding"
    first: str
    """Path of the convolution that is to pad for both."""
    second: str
    """Path of the convolution that is to pad no more."""

    @property
    def label(self) -> str:
        return f"padding of {self.second} moves to {self.first}"

    @property
    def stands_there(self) -> str:
        return "move_padding"

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        """Raises PlanError unless both are convolutions that pad with zeros, by numbers."""
        (one, before), (two, behind) = (self._convolution(chain, path) for path in (self.first, self.second))
        if len(before) != len(behind) or one.out_channels != two.in_channels:
            raise PlanError(f"{self.first} gives no images that {self.second} takes, so it cannot pad for it.")
        one.padding = tuple(p + s * q for p, s, q in zip(before, one.stride, behind, strict=True))
        two.padding = (0,) * len(behind)

    def _convolution(self, chain: Chain, path: str) -> tuple[_ConvNd, tuple[int, ...]]:
        """A convolution, and its padding."""
        try:
            found = chain.model.get_submodule(path)
        except AttributeError as error:
            raise PlanError(f"There is no module {path} in this network whose padding could be moved.") from error
        if not isinstance(found, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise PlanError(f"{path} is a {type(found).__name__}; only the padding of convolutions can be moved.")
        if isinstance(found.padding, str) or found.padding_mode != "zeros":
            raise PlanError(f"{path} pads by {found.padding!r} with {found.padding_mode}; only a number of zeros can be moved.")
        return found, found.padding
