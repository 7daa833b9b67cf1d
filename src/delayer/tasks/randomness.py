"""Whether a network gives the same answer twice."""

import torch
from torch import Tensor, nn

from delayer.network.calling import Inputs, call, output_of, ready, seeded

ROUNDING = 1e-4
"""Share of the answer's size that two runs of a deterministic network may differ by."""


def randomness(model: nn.Module, inputs: Inputs) -> list[str]:
    """What to tell of a network that answers the same samples otherwise the second time; nothing of one that does not.

    Random numbers are seeded for each batch that networks are compared on (`calling.seeded`), which such a note says.
    """
    with ready(model, inputs) as there:

        def answer(seed: int) -> Tensor:
            with seeded(seed):
                return output_of(call(model, there)).cpu().double()

        first, other = answer(0), answer(1)
        if (gap := _apart(first, other)) <= ROUNDING:
            return []
        again = _apart(first, answer(0))
    begin = f"The network's forward is random in evaluation mode: its answers to the same samples differ by {_percent(gap)}."
    if again > ROUNDING:
        return [
            f"{begin} Seeds do not hold it (by {_percent(again)} still), so every grade and comparison is that unsure. Make "
            "its forward deterministic."
        ]
    return [
        f"{begin} Random numbers are seeded alike wherever networks are compared, so grades hold for one draw of them; a cut "
        "network may draw others."
    ]


def _apart(a: Tensor, b: Tensor) -> float:
    """The difference's size as a share of the answer's; infinite where shapes differ, 0 where either is not finite."""
    if a.shape != b.shape:
        return float("inf")
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return 0.0  # which is found, and named, wherever the network is run
    scale = max(float(a.norm()), float(b.norm()))
    return float((a - b).norm()) / scale if scale else 0.0


def _percent(share: float) -> str:
    return "all of their size" if share >= 1 else f"{100 * share:.2g} % of their size"
