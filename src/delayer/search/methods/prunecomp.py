"""Prune&Comp: the least influential block goes, weights before it make up for its magnitude, and the rest is scored again."""

from collections.abc import Sequence

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.edits.rescale import Rescale
from delayer.errors import ModelError
from delayer.fitting.sizes import mean_sizes
from delayer.modules.stand_in import StandIn
from delayer.network.adding import Writers, writers_of
from delayer.network.chain import Chain, Span
from delayer.search.budget import Budget
from delayer.search.methods import check_blocks, free_blocks, joined, method
from delayer.search.methods._glance import glance
from delayer.search.methods._influence import least_influential, token_influence
from delayer.search.subject import Subject


def check_prunecomp(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where fewer blocks can go."""
    check_blocks(chain, budget, "Prune&Comp", free_blocks(chain))


def suits_prunecomp(subject: Subject) -> None:
    """Raises ModelError where weights cannot change the size of the hidden state alone."""
    _writers(subject)


def _writers(subject: Subject) -> Writers:
    try:
        return writers_of(subject.chain, glance(subject).inputs)
    except ModelError as error:
        raise ModelError(
            f"Prune&Comp scales the hidden state by its weights. {error} Use --method shortgpt or ghosted."
        ) from error


def _compensated_(chain: Chain, block: int, writers: Writers, batches: Sequence) -> Rescale:
    """Take a block out, and scale what writes before it to the size that it gave; get that edit."""
    inlet, outlet = chain.blocks[block].inlet, chain.blocks[block].outlet
    sizes = mean_sizes(chain, (inlet, outlet), batches)
    factor = float((sizes[outlet].mean(1) / sizes[inlet].mean(1)).mean())
    edit = Rescale(before=block, factor=factor, begins=writers.begins, adds=writers.adds, undo=writers.undo)
    chain.replace_(block, StandIn(chain.module(block), chain.blocks[block]))
    edit.apply_(chain)
    return edit


def _edits(chain: Chain, gone: Sequence[int], scaled: Sequence[Edit]) -> tuple[Edit, ...]:
    return (*scaled, *(DropSpan(start=start, stop=stop) for start, stop in joined(chain, gone)))


def _by_hand(subject: Subject, spans: Sequence[Span]) -> tuple[Edit, ...]:
    """The blocks of these spans, each made up for when it goes, the first one first."""
    for span in spans:
        subject.chain.check(span)
    writers, chain = _writers(subject), subject.chain.copy()
    gone = sorted(block for span in spans for block in range(span.start, span.stop))
    scaled = [_compensated_(chain, block, writers, subject.task.batches("fit")) for block in gone]
    return _edits(subject.chain, gone, scaled)


@method(
    "prunecomp",
    title="Prune&Comp",
    source="Chen et al. 2025, arXiv 2507.18212",
    num_samples=128,
    operator="rescale",
    check=check_prunecomp,
    suits=suits_prunecomp,
    by_hand=_by_hand,
)
def prunecomp_spans(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """Step by step the block of lowest influence goes, and what writes before it is scaled to the size that it gave.

    Influence is read in the network as it is by then (over all tokens), and the factor α is mean|output| / mean|input| of the
    block, worked out for each sample and averaged over samples. It folds into the embeddings and into the last layers of
    attention and MLP of every block before (edit `rescale`): no new parameter, and no other reader notices, since norms undo it.
    Fidelity: the paper combines its loop with several scores; this is the one with block influence. How its sizes are averaged
    over tokens could not be confirmed; here it is as in the same authors' LinearPatch. Embeddings that are shared with the head:
    see `Rescale`.
    Source: Chen et al. 2025 (Prune&Comp), arXiv 2507.18212.
    """
    check_prunecomp(subject.chain, budget)
    writers, fit, num = _writers(subject), subject.task.batches("fit"), int(budget.amount)
    chain, left, gone, scaled = subject.chain.copy(), free_blocks(subject.chain), list[int](), list[Edit]()
    with subject.reporter.step("Removing block by block, each made up for") as tick:
        while len(gone) < num:
            [block] = least_influential(token_influence(chain, fit, left, seed=subject.seed), 1)
            scaled.append(_compensated_(chain, block, writers, fit))
            left.remove(block)
            gone.append(block)
            tick(len(gone), num)
    return _edits(subject.chain, gone, scaled)
