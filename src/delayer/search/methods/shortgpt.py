"""ShortGPT: the blocks that turn the hidden state least are dropped."""

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.network.chain import Chain
from delayer.search.budget import Budget
from delayer.search.methods import check_blocks, free_blocks, joined, method
from delayer.search.methods._influence import least_influential, token_influence
from delayer.search.subject import Subject


def check_shortgpt(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where fewer blocks can go."""
    check_blocks(chain, budget, "ShortGPT", free_blocks(chain))


@method("shortgpt", title="ShortGPT", source="Men et al. 2024, arXiv 2403.03853", operator="drop", check=check_shortgpt)
def shortgpt_spans(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """The blocks of lowest block influence, 1 − mean cos(input, output) over all tokens, are dropped in one shot.

    Fidelity: over all real tokens, as the paper has it (the metric `block_influence` reads the family's row). The last block is
    judged by its own output; with transformers' hidden states it would be judged behind the final norm. On other networks
    "tokens" are patches or pixels.
    Source: Men et al. 2024 (ShortGPT), arXiv 2403.03853.
    """
    chain = subject.chain
    check_shortgpt(chain, budget)
    with subject.reporter.step("Block influence over all tokens") as tick:
        found = token_influence(chain, subject.task.batches("fit"), free_blocks(chain), seed=subject.seed, progress=tick)
    chosen = least_influential(found, int(budget.amount))
    return tuple(DropSpan(start=start, stop=stop) for start, stop in joined(chain, chosen))
