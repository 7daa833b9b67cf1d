"""ReplaceMe: one span is dropped, and a map that stands for it folds into the block before."""

from collections.abc import Sequence
from functools import partial

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.edits.fold_map import FoldMap, Solver
from delayer.errors import ModelError, SpanError
from delayer.fitting.seam import foldable
from delayer.network.chain import Chain, Span
from delayer.search.budget import Budget
from delayer.search.methods import check_spans, method, spans_of
from delayer.search.methods._glance import glance
from delayer.search.methods.uidl import nearest_span
from delayer.search.repair import forms_of
from delayer.search.subject import Subject

SOURCE = "Shopkhoev et al. 2025, arXiv 2505.02819"


def spans_behind(chain: Chain, num: int) -> list[Span]:
    """Spans of `num` blocks with a block right before them."""
    return [span for span in spans_of(chain, num) if _follows(chain, span)]


def check_replaceme(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where no one span behind a block holds so many blocks."""
    check_spans(chain, budget, "ReplaceMe", lambda num: spans_behind(chain, num))


def suits_replaceme(subject: Subject) -> None:
    """Raises ModelError where no map folds into any block."""
    if not _foldable(subject):
        raise ModelError(
            "ReplaceMe folds its map into the last linear layer of the block before the span, and no block of "
            f"{type(subject.model).__name__} ends in a sum with the answer of a Linear. Use --method ghosted or rba, which put a "
            "map in the span's place."
        )


def _follows(chain: Chain, span: Span) -> bool:
    """Whether a block hands on to a span, with nothing in between."""
    return span.start > 0 and chain.blocks[span.start - 1].outlet == chain.blocks[span.start].inlet


def _foldable(subject: Subject) -> set[int]:
    chain = subject.chain
    forms = forms_of(chain, glance(subject))
    return {block for block, form in enumerate(forms) if foldable(chain.module(block), form)}


def _by_hand(subject: Subject, spans: Sequence[Span], *, solver: Solver) -> tuple[Edit, ...]:
    """Each span dropped, and a map in the block before it. Raises SpanError where there is none that takes one."""
    chain, can, found = subject.chain, _foldable(subject), list[Edit]()
    for span in spans:
        chain.check(span)
        before = span.start - 1
        if not _follows(chain, span) or before not in can or any(before in range(s.start, s.stop) for s in spans):
            raise SpanError(
                f"ReplaceMe folds a map into the block before span {span}, and there is none that stays and ends in a sum with "
                "the answer of a Linear. Choose a span behind such a block."
            )
        found += _edits(span, solver)
    return tuple(found)


def _edits(span: Span, solver: Solver) -> tuple[Edit, ...]:
    fold = FoldMap(block=span.start - 1, target=span.stop - 1, solver=solver)
    return DropSpan(start=span.start, stop=span.stop), fold


def _choose(subject: Subject, budget: Budget, *, solver: Solver) -> tuple[Edit, ...]:
    chain = subject.chain
    check_replaceme(chain, budget)
    can = _foldable(subject)
    spans = [span for span in spans_behind(chain, int(budget.amount)) if span.start - 1 in can]
    if not spans:
        raise ModelError(
            f"No span of {budget} stands behind a block that ReplaceMe can fold a map into ({chain!r}). Ask for fewer, or use "
            "--method ghosted."
        )
    return _edits(nearest_span(chain, subject.scored("angular_distance"), spans), solver)


@method(
    "replaceme",
    title="ReplaceMe",
    source=SOURCE,
    num_samples=8000,
    operator="fold_map",
    check=check_replaceme,
    suits=suits_replaceme,
    by_hand=partial(_by_hand, solver="least_squares"),
)
def replaceme_span(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """The span of n blocks with the smallest angular distance goes, and a least-squares map folds into the block before it.

    The map is fitted on the MLP output of that block, in the original (edit `fold_map`): no new parameter.
    Fidelity: the span is UIDL's among those with a block before them; where the released code fits on padding, on the state
    behind the final norm and with a plain inverse, see `FoldMap`. One span, as in the paper's main results.
    Source: Shopkhoev et al. 2025 (ReplaceMe), arXiv 2505.02819.
    """
    return _choose(subject, budget, solver="least_squares")


@method(
    "replaceme_cosine",
    title="ReplaceMe (cosine)",
    source=SOURCE,
    num_samples=8000,
    operator="fold_map",
    check=check_replaceme,
    suits=suits_replaceme,
    by_hand=partial(_by_hand, solver="cosine"),
)
def replaceme_cosine_span(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """The same span, with a map that Adam fits to the cosine: rate 1e-4, 10 epochs, 1,024 tokens a step, from the identity.

    Fidelity: as `replaceme`; these numbers are the released code's.
    Source: Shopkhoev et al. 2025 (ReplaceMe), arXiv 2505.02819.
    """
    return _choose(subject, budget, solver="cosine")
