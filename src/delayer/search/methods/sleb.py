"""SLEB: one block after another goes, each time the one without which perplexity is lowest."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.errors import BudgetError, ModelError
from delayer.modules.stand_in import StandIn
from delayer.network.calling import call, first_tensor, output_of, ready, seeded
from delayer.network.chain import Chain
from delayer.network.precision import multiplying
from delayer.search.budget import Budget
from delayer.search.methods import check_blocks, free_blocks, joined, method
from delayer.search.replay import Replay
from delayer.search.subject import Subject
from delayer.tasks import Batch
from delayer.tasks.kinds import token_ids

NOTHING = -100
"""In place of a token where none is to be predicted."""


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
    """Mean loss of the next token on the fit split, nats; NaN where the network answers so.

    Raises BudgetError where there is no token to predict.
    """
    total, num = 0.0, 0
    with ready(subject.model, torch.empty(0), subject.device) as spot:
        for batch in subject.task.batches("fit"):
            batch = batch.to(first_tensor(spot).device)
            with seeded(batch.start), around(batch), multiplying(subject.model):
                output = output_of(call(subject.model, batch.inputs))
            truth = _next_tokens(batch, subject.task.kind)
            num += int((truth != NOTHING).sum())
            for logits, row in zip(output, truth, strict=True):  # one by one, since vocabularies are large
                total += float(F.cross_entropy(logits[:-1].float(), row, ignore_index=NOTHING, reduction="sum"))
    if not num:
        raise BudgetError("The fit split holds no token to predict, so SLEB has nothing to choose by. Give longer texts.")
    return total / num


def _next_tokens(batch: Batch, kind: str) -> Tensor:
    """The token that follows each but the last [samples, tokens - 1]; NOTHING beside padding."""
    (read, written), inputs = batch.masks, batch.inputs
    if kind == "seq2seq":
        ids, mask = inputs["decoder_input_ids"] if not isinstance(inputs, Tensor) else None, written
    else:
        ids, mask = token_ids(inputs), read
    if ids is None:
        raise BudgetError(f"The task is {kind}, but its inputs hold no token numbers that SLEB could predict.")
    real = torch.ones_like(ids) if mask is None else mask
    return ids[:, 1:].long().masked_fill(~(real[:, 1:].bool() & real[:, :-1].bool()), NOTHING)


def _loss_without(subject: Subject, replay: Replay, block: int) -> float:
    """The same without one more block; infinity where the network answers with NaN then."""
    stood = _drop_(subject.chain, block)
    try:
        loss = _loss(subject, lambda batch: replay.beginning(batch, block))
    finally:
        subject.chain.replace_(block, stood)
    return math.inf if math.isnan(loss) else loss


def _lowest(losses: dict[int, float]) -> int:
    """The block without which the loss is lowest. Raises ModelError where there is no such number."""
    best = min(losses, key=lambda block: (losses[block], block))
    if not math.isfinite(losses[best]):
        raise ModelError(
            f"Without any of the blocks {', '.join(map(str, losses))} the network answers with NaN. Check weights and data."
        )
    return best
