"""What is said of a merge: exact as it is, exact by a repair, or refused with the reason."""

from dataclasses import dataclass
from typing import Literal

Repair = Literal["none", "constant_channel", "bias_map", "border_strip"]
"""How a border that would be wrong is made right without retraining.

none: not at all; a merge that needs more is refused.
constant_channel: a channel of ones, padded with zeros as the image is, carries the first layer's bias; any image size.
bias_map: what the layers make of an empty image is added; one image size.
border_strip: what the second layer makes of the first's values outside the image is taken away; any image size.
"""


@dataclass(frozen=True)
class Verdict:
    """Whether layers become one without changing their function."""

    exact: bool
    repair: Repair = "none"
    """The repair that made it exact."""
    reason: str = ""
    """Why it was refused; "" for an exact merge."""

    def __str__(self) -> str:
        if not self.exact:
            return f"refused: {self.reason}"
        return "exact as it is" if self.repair == "none" else f"exact by {self.repair}"


class Refusal(Exception):
    """Raised inside the algebra where layers cannot become one; it ends as a `Verdict`."""
