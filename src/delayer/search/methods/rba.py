"""RBA: linear maps over the blocks that move the hidden state least."""

from delayer.edits import Edit
from delayer.edits.replace_span import ReplaceSpan
from delayer.fitting.operators.linear import Linear
from delayer.network.chain import Chain
from delayer.search.budget import Budget
from delayer.search.methods import check_blocks, free_blocks, joined, method
from delayer.study import Score


def check_rba(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where fewer blocks can go."""
    check_blocks(chain, budget, "RBA", free_blocks(chain))


@method(
    "rba",
    title="RBA",
    source="Cannistraci et al. 2024, arXiv 2410.04941",
    metric="block_redundancy",
    num_samples=500,
    operator="linear",
    check=check_rba,
)
def rba_spans(chain: Chain, redundancy: Score, budget: Budget) -> tuple[Edit, ...]:
    """Spans for RBA as published, by Block Redundancy alone: linear maps over the most redundant blocks.

    Fidelity: the paper types its spans by hand and gives no rule. Ours: the blocks with the largest Block Redundancy,
    neighbours joined into one span. Nothing is measured.
    Source: Cannistraci et al., arXiv 2410.04941.
    """
    check_rba(chain, budget)
    values = {i: redundancy.values[chain.blocks[i].inlet][chain.blocks[i].outlet] for i in free_blocks(chain)}
    chosen = sorted(values, key=lambda b: values[b], reverse=True)[: int(budget.amount)]
    return tuple(ReplaceSpan(start=start, stop=stop, operator=Linear()) for start, stop in joined(chain, chosen))
