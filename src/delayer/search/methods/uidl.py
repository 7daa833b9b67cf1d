"""UIDL: the one span across which the last token turns least is dropped."""

from collections.abc import Iterable

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.network.chain import Chain, Span
from delayer.search.budget import Budget
from delayer.search.methods import check_spans, method, spans_of
from delayer.study import Score


def check_uidl(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where no one span holds so many blocks."""
    check_spans(chain, budget, "UIDL")


def nearest_span(chain: Chain, distance: Score, spans: Iterable[Span]) -> Span:
    """The span whose ends are nearest to each other by a score of all spans, the earlier of equal ones."""

    def gap(span: Span) -> tuple[float, int]:
        before, after = chain.ends(span)
        found = distance.values[before][after]
        return (float("inf") if found is None else found), span.start

    return min(spans, key=gap)


@method(
    "uidl",
    title="UIDL",
    source="Gromov et al. 2024, arXiv 2403.17887",
    metric="angular_distance",
    operator="drop",
    check=check_uidl,
)
def uidl_span(chain: Chain, distance: Score, budget: Budget) -> tuple[Edit, ...]:
    """The span of n blocks with the smallest angular distance arccos(cos)/π between its ends is dropped.

    Fidelity: on the last real token of decoders, as the paper has it; on other networks on the family's row (the class token of
    ViTs, the mean elsewhere). The paper heals by fine-tuning afterwards; that is `tune`. A span that ends with the last block is
    judged before the final norm.
    Source: Gromov et al. 2024 ("The Unreasonable Ineffectiveness of the Deeper Layers"), arXiv 2403.17887.
    """
    check_uidl(chain, budget)
    span = nearest_span(chain, distance, spans_of(chain, int(budget.amount)))
    return (DropSpan(start=span.start, stop=span.stop),)
