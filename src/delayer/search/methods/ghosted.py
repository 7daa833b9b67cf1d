"""Ghosted Layers: the least influential blocks each give way to one least-squares map."""

from delayer.edits import Edit
from delayer.edits.replace_span import ReplaceSpan
from delayer.fitting.operators.ghosted import Ghosted
from delayer.network.chain import Chain
from delayer.search.budget import Budget
from delayer.search.methods import check_blocks, free_blocks, method
from delayer.search.methods._influence import least_influential, token_influence
from delayer.search.subject import Subject


def candidates_of(chain: Chain) -> list[int]:
    """Blocks that may go: all that can but the last block."""
    return [block for block in free_blocks(chain) if block < chain.num_blocks - 1]


def check_ghosted(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where fewer blocks can go."""
    check_blocks(chain, budget, "Ghosted Layers", candidates_of(chain))


@method(
    "ghosted",
    title="Ghosted Layers",
    source="Yun et al. 2026, arXiv 2605.15491",
    num_samples=32,
    operator="ghosted",
    check=check_ghosted,
)
def ghosted_spans(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """The blocks of lowest block influence over all tokens, each replaced by a map of its own (operator `ghosted`).

    Every map is fitted on the original's stream, from what enters its block to what leaves it.
    Fidelity: with blocks chosen one by one (by ShortGPT's block influence) the paper's code puts one map for each removed block,
    adjacent ones included, and so does this; for one contiguous span it puts one map for the whole span, which is
    `--span START:STOP`. It never removes the last block. That code takes cosines along the tokens (torch's default axis of a
    batch of hidden states); here they are along the features, as block influence is defined.
    Source: Yun et al. 2026 (Ghosted Layers), arXiv 2605.15491.
    """
    chain = subject.chain
    check_ghosted(chain, budget)
    with subject.reporter.step("Block influence over all tokens") as tick:
        found = token_influence(chain, subject.task.batches("fit"), candidates_of(chain), seed=subject.seed, progress=tick)
    chosen = least_influential(found, int(budget.amount))
    return tuple(ReplaceSpan(start=block, stop=block + 1, operator=Ghosted()) for block in sorted(chosen))
