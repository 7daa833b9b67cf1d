"""Plans from spans that are given by hand."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ValidationError

from delayer.cutting.plan import Plan
from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.edits.replace_span import ReplaceSpan
from delayer.errors import PlanError
from delayer.fitting.operators import Operator, operator_of
from delayer.network.chain import Chain, Span
from delayer.network.hashing import model_hash
from delayer.study import first_fault


def edit_with(operator: Operator, span: Span) -> Edit:
    """The edit that puts an operator in a span's place, or takes the span out."""
    if operator.removes:
        return DropSpan(start=span.start, stop=span.stop)
    return ReplaceSpan(start=span.start, stop=span.stop, operator=operator)


def plan_by_hand(
    chain: Chain,
    spans: Sequence[Span | str],
    *,
    operator: str | Operator = "affine",
    model: str = "",
    refit: Literal["independent", "sequential"] = "independent",
    **options: Any,
) -> Plan:
    """A plan from spans given by hand; the operator "drop" takes them out, any other replaces each by one map.

    options: of the operator where it is given by its name, such as rank=32 for "low_rank".
    Raises SpanError, UnknownName for an operator that does not exist, PlanError for options that it does not take.
    """
    chosen = operator_of(operator, options) if isinstance(operator, str) else operator
    edits: list[Edit] = []
    for item in (spans,) if isinstance(spans, str) else spans:
        span = Span.parse(item) if isinstance(item, str) else item
        chain.check(span)
        edits.append(edit_with(chosen, span))
    try:
        return Plan(
            model=model or type(chain.model).__name__,
            model_hash=model_hash(chain.model),
            num_blocks=chain.num_blocks,
            edits=tuple(edits),
            refit=refit,
        )
    except ValidationError as error:
        raise PlanError(f"That is no plan: {first_fault(error)}.") from error
