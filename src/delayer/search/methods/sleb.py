"""SLEB: one block after another goes, each time the one without which perplexity is lowest."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import nn

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.errors import BudgetError, ModelError, NotFiniteError
from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain
from delayer.search.budget import Budget
from delayer.search.methods import check_blocks, free_blocks, joined, method
from delayer.search.replay import Replay
from delayer.search.subject import Subject
from delayer.tasks import Batch, predictions


def candidates_of(chain: Chain) -> list[int]:
    """Blocks that SLEB may remove: all that can go but the first and the last block."""
    return [block for block in free_blocks(chain) if 0 < block < chain.num_blocks - 1]


def check_sleb(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where fewer blocks can go."""
    check_blocks(chain, budget, "SLEB, which leaves the first and the last block,", candidates_of(chain))


def suits_sleb(subject: Subject) -> None:
    """Raises BudgetError for networks that do not write text."""
    if (kind := subject.task.kind) not in ("causal-lm", "seq2seq"):
        raise BudgetError(
            f"SLEB chooses by the loss of the next token, and this is a task of {kind}. Use --method shortgpt or ours, or a "
            "network that writes text."
        )


@method(
    "sleb",
    title="SLEB",
    source="Song et al. 2024, arXiv 2402.09025",
    num_samples=128,
    operator="drop",
    check=check_sleb,
    suits=suits_sleb,
)
def sleb_spans(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """Greedy: in each step every block that is left is tried, and the one without which the loss is lowest goes.

    The loss of the next token on the fit split, with all that went before gone already; passes begin at the block that is tried
    (`Replay`), with the same bits.
    Fidelity: as in the released code the first and the last block stay, and of equal losses the earlier block goes. That code
    averages over sequences of one length; here over tokens, which is the same there. Padding counts nowhere.
    Source: Song et al. 2024 (SLEB), arXiv 2402.09025.
    """
    suits_sleb(subject)
    check_sleb(subject.chain, budget)
    chain, left, gone = subject.chain, candidates_of(subject.chain), list[int]()
    tries, done = sum(len(left) - step for step in range(int(budget.amount))), 0
    with chain.restored(), subject.reporter.step("The loss without each block") as tick:
        while len(gone) < int(budget.amount):
            replay, losses = Replay(chain, subject.task.batches("fit")), {}
            _loss(subject, replay.recording)
            for block in left:
                losses[block] = _loss_without(subject, replay, block)
                tick(done := done + 1, tries)
            best = _lowest(losses)
            left.remove(best)
            gone.append(best)
            _drop_(chain, best)
    return tuple(DropSpan(start=start, stop=stop) for start, stop in joined(chain, gone))


def _drop_(chain: Chain, block: int) -> nn.Module:
    return chain.replace_(block, StandIn(chain.module(block), chain.blocks[block]))


def _loss(subject: Subject, around: Callable[[Batch], AbstractContextManager[None]]) -> float:
    """Mean loss of the next token on the fit split, nats. Raises BudgetError where there is no token to predict."""
    found = predictions(subject.model, subject.task.batches("fit"), device=subject.device, around=around).nll
    if found is None or not len(found):
        raise BudgetError("The fit split holds no token to predict, so SLEB has nothing to choose by. Give longer texts.")
    return float(found.double().mean())


def _loss_without(subject: Subject, replay: Replay, block: int) -> float:
    """The same without one more block; infinity where the network answers with NaN then."""
    stood = _drop_(subject.chain, block)
    try:
        return _loss(subject, lambda batch: replay.beginning(batch, block))
    except NotFiniteError:
        return math.inf
    finally:
        subject.chain.replace_(block, stood)


def _lowest(losses: dict[int, float]) -> int:
    """The block without which the loss is lowest. Raises ModelError where there is no such number."""
    best = min(losses, key=lambda block: (losses[block], block))
    if not math.isfinite(losses[best]):
        raise ModelError(
            f"Without any of the blocks {', '.join(map(str, losses))} the network answers with NaN. Check weights and data."
        )
    return best
