"""LinearPatch: one span gives way to a patch that matches the sizes of channels."""

from collections.abc import Sequence

from delayer.edits import Edit
from delayer.edits.linear_patch import LinearPatch
from delayer.network.chain import Chain, Span
from delayer.observing.rows import Rows
from delayer.observing.stats import Geometry
from delayer.search.budget import Budget
from delayer.search.methods import check_spans, method, spans_of
from delayer.search.subject import Subject


def candidates_of(chain: Chain, num: int) -> list[Span]:
    """Spans of `num` blocks that hold neither the first block nor the last."""
    return [span for span in spans_of(chain, num) if span.start > 0 and span.stop < chain.num_blocks]


def check_linearpatch(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where no one span holds so many blocks."""
    check_spans(chain, budget, "LinearPatch", lambda num: candidates_of(chain, num))


def suits_linearpatch(subject: Subject) -> None:
    """Raises PlanError for widths that no Hadamard matrix is known of."""
    for segment in subject.chain.segments:
        LinearPatch(start=segment.start, stop=segment.start + 1).check(subject.chain)


def _by_hand(subject: Subject, spans: Sequence[Span]) -> tuple[Edit, ...]:
    for span in spans:
        subject.chain.check(span)
    return tuple(LinearPatch(start=span.start, stop=span.stop) for span in spans)


@method(
    "linearpatch",
    title="LinearPatch",
    source="Chen et al. 2025, arXiv 2505.24680",
    num_samples=128,
    operator="linear_patch",
    check=check_linearpatch,
    suits=suits_linearpatch,
    by_hand=_by_hand,
)
def linearpatch_span(subject: Subject, budget: Budget) -> tuple[Edit, ...]:
    """The span of n blocks whose ends are most alike by their cosine over all tokens becomes one patch (edit `linear_patch`).

    Fidelity: the cosine is LLM-Streamline's criterion, which the released code uses; that code takes it along the token axis
    (torch's default axis of a batch of hidden states), here it is along the features. As there, neither the first block nor the
    last goes. The patch is the training-free one; the paper's distillation of it is `tune`.
    Source: Chen et al. 2025 (LinearPatch), arXiv 2505.24680.
    """
    chain = subject.chain
    check_linearpatch(chain, budget)
    suits_linearpatch(subject)
    spans = candidates_of(chain, int(budget.amount))
    stat = Geometry([chain.ends(span) for span in spans], Rows("each"), chain.num_points)
    subject.observe("Cosine over all tokens", "fit", [stat])
    best = max(spans, key=lambda span: (float(stat.cosine[chain.ends(span)]), -span.start))
    return _by_hand(subject, [best])
