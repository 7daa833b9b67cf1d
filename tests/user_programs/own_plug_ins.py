"""A metric and an edit of one's own, registered by this very file."""

from typing import Literal

import torch
from torch import Tensor, nn

import delayer
from delayer.cutting import Plan
from delayer.edits import SpanEdit, edit
from delayer.fitting.evidence import Evidence
from delayer.metrics.blocks import metric
from delayer.metrics.blocks.block_redundancy import geometry, upper
from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain, Span
from delayer.observing.stats import Geometry


@metric(title="Squared cosine", shape="spans", redundant="high", unit="", source="an example", stat=geometry, fewest=16)
def squared_cosine(stat: Geometry) -> Tensor:
    """cos² of the angle between the ends of each span [points, points]."""
    return upper(stat.cosine**2)


class Scaled(nn.Module):
    """A hidden state times a number."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        """x, scaled."""
        return x * self.factor


@edit("halve_span")
class HalveSpan(SpanEdit):
    """Blocks become one number, which the hidden state is multiplied by."""

    edit: Literal["halve_span"] = "halve_span"
    factor: float = 0.5

    @property
    def spans(self) -> tuple[Span, ...]:
        """The one span."""
        return (Span(self.start, self.stop),)

    @property
    def label(self) -> str:
        """For people."""
        return f"{Span(self.start, self.stop)} × {self.factor}"

    @property
    def gone(self) -> set[int]:
        """All but the first, in whose place the number stands."""
        return set(range(self.start + 1, self.stop))

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        """Put the number in place."""
        like = next(chain.module(self.start).parameters())
        for index in range(self.start, self.stop):
            made = Scaled(self.factor).to(like.device, like.dtype) if index == self.start else None
            chain.replace_(index, StandIn(chain.module(index), chain.blocks[index], made))


def main() -> None:
    """Prints the metric's values and what the edit made."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 8), *(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(5)), nn.Linear(8, 2)
    ).eval()
    data = [torch.randn(32, 4) for _ in range(2)]
    chain = delayer.chain_of(network, data[0][:2])
    task = delayer.task_of(data, model=network)
    [score] = delayer.score(chain, task.batches("fit"), ["squared_cosine"])
    print(f"{score.title} on {score.num_samples} samples")

    start = next(chain.spans()).start
    plan = Plan(model="own", model_hash="", num_blocks=chain.num_blocks, edits=(HalveSpan(start=start, stop=start + 2),))
    small = delayer.apply(chain, plan)
    print(f"{plan.edits[0].label}: {delayer.num_params(network) - delayer.num_params(small)} parameters less")


if __name__ == "__main__":
    main()
