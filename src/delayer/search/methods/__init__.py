"""Published ways to choose what to cut, one a file: from one metric's score and a number of blocks to edits.

A new file that calls `method` has its name under `--method`. Nothing is measured here: that is what `ours` does.
"""

from collections.abc import Callable
from dataclasses import dataclass

from delayer.edits import Edit
from delayer.errors import BudgetError
from delayer.network.chain import Chain
from delayer.registry import Registry
from delayer.search.budget import Budget
from delayer.study import Score

Choose = Callable[[Chain, Score, Budget], tuple[Edit, ...]]
Check = Callable[[Chain, Budget], None]


@dataclass(frozen=True)
class Method:
    """A published method's facts and its choice.

    metric: the score that it reads, in the paper on num_samples samples. operator: what stands in for spans by hand.
    check: raises BudgetError for a budget that it cannot meet on a network, whatever the score.
    """

    name: str
    title: str
    source: str
    metric: str
    num_samples: int
    operator: str
    choose: Choose
    check: Check


methods: Registry[Method] = Registry("method", "delayer.search.methods")


def method(
    name: str, *, title: str, source: str, metric: str, num_samples: int, operator: str, check: Check
) -> Callable[[Choose], Choose]:
    """Register a function as the choice of a published method."""

    def add(choose: Choose) -> Choose:
        methods.register(name, choose)(Method(name, title, source, metric, num_samples, operator, choose, check))
        return choose

    return add


def num_asked(budget: Budget, title: str) -> int:
    """The number of blocks to remove. Raises BudgetError for a budget of another kind, which these methods lack."""
    if budget.unit != "blocks":
        raise BudgetError(f"{title} removes a number of blocks; {budget} was asked for. Use --remove blocks=N or --span.")
    return int(budget.amount)


def joined(chain: Chain, blocks: list[int]) -> list[tuple[int, int]]:
    """Blocks as spans (start, stop), neighbours that hand over the same tensor together."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        follows = runs and runs[-1][-1] == block - 1 and chain.blocks[block - 1].outlet == chain.blocks[block].inlet
        runs[-1].append(block) if follows else runs.append([block])
    return [(run[0], run[-1] + 1) for run in runs]


__all__ = ["Method", "joined", "method", "methods", "num_asked"]


def __dir__() -> list[str]:
    return sorted(__all__)
