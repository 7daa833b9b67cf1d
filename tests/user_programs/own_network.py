"""A network and data of one's own: look, choose, cut, and see what is left."""

import torch
from torch import Tensor, nn

import delayer


class Block(nn.Module):
    """x plus what two layers make of it."""

    def __init__(self, width: int):
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width] → the same."""
        return x + 0.1 * self.two(torch.relu(self.one(x)))


def main() -> None:
    """Prints what was cut and what it cost."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), *(Block(16) for _ in range(6)), nn.Linear(16, 3)).eval()
    fit, validation = ([torch.randn(32, 8) for _ in range(4)] for _ in range(2))
    chain = delayer.chain_of(network, fit[0][:2])
    task = delayer.task_of(fit, validation, validation, model=network)

    group = [tuple(range(segment.points[0], segment.points[-1] + 1)) for segment in chain.segments]
    seen, heldout = (delayer.stats.Moments(group, delayer.Rows()) for _ in range(2))
    delayer.observe(chain, task.batches("fit"), [seen])
    delayer.observe(chain, task.batches("validation"), [heldout])
    best = min(delayer.scan(chain, seen, heldout).spans, key=lambda row: row.residual)
    print(f"best span {best.start}:{best.stop} by {best.operator}, {best.params_saved} parameters saved")

    plan = delayer.plan(chain, task, remove="blocks=2", samples=32, effort=4)
    small = delayer.apply(chain, plan, data=task.batches("fit"))
    reference = delayer.predictions(network, task.batches("validation"))
    grade = delayer.evaluate(small, task, reference=reference)
    print(
        f"{delayer.num_params(network) - delayer.num_params(small)} parameters less, {grade.name} {grade.value:.1f}{grade.unit}"
    )


if __name__ == "__main__":
    main()
