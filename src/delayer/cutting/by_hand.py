"""Plans from spans that are given by hand."""

from collections.abc import Sequence

from delayer.cutting.plan import Plan
from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.edits.replace_span import ReplaceSpan
from delayer.network.chain import Chain, Span
from delayer.network.hashing import model_hash


def plan_by_hand(
    chain: Chain,
    spans: Sequence[Span | str],
    *,
    operator: str = "affine",
    model: str = "",
    ridge: float | None = None,
    rank: int | None = None,
    kernel: int | None = None,
    tail: str = "identity",
    refit: str = "independent",
) -> Plan:
    """A plan from spans given by hand; operator "drop" takes them out, any other replaces each by one map.

    kernel, tail: for the operator "conv", 1, 3 or 5 wide (3 by default) and with "relu" behind it where blocks end in one.
    """
    more = {"kernel": kernel or 3, "tail": tail} if operator == "conv" else {}
    edits: list[Edit] = []
    for item in spans:
        span = Span.parse(item) if isinstance(item, str) else item
        chain.check(span)
        edits.append(
            DropSpan(start=span.start, stop=span.stop)
            if operator == "drop"
            else ReplaceSpan(start=span.start, stop=span.stop, operator=operator, ridge=ridge, rank=rank, **more)
        )
    return Plan(
        model=model or type(chain.model).__name__,
        model_hash=model_hash(chain.model),
        num_blocks=chain.num_blocks,
        edits=tuple(edits),
        refit=refit,
    )
