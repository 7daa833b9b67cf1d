"""Published ways to choose what to cut, one a file: from a score or from the data themselves, and a number of blocks, to edits.

A new file that calls `method` has its name under `--method`. Whole sets of cuts are measured by `ours` alone; a published method
measures what its paper measures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from delayer.cutting.by_hand import plan_by_hand
from delayer.edits import Edit
from delayer.errors import BudgetError
from delayer.network.chain import Chain, Span
from delayer.registry import Registry
from delayer.search.budget import Budget
from delayer.search.options import PlanOptions
from delayer.search.subject import Subject

Choose = Callable[..., tuple[Edit, ...]]
Check = Callable[[Chain, Budget], None]
Suits = Callable[[Subject], None]
ByHand = Callable[[Subject, Sequence[Span]], tuple[Edit, ...]]


@dataclass(frozen=True)
class Method:
    """A published method's facts and its choice.

    choose: with a metric, from (chain, that metric's score, budget) to edits; without one from (subject, budget), so that it may
    read the fit split and try cuts, after which the network is as it was.
    metric: the score that it reads; "" for none. num_samples: on how many samples the paper reads data; 0 where that is not said.
    operator: what stands in a removed span's place, an operator's name or an edit's.
    check: raises BudgetError for a budget that it cannot meet on a network, whatever the data.
    suits: raises BudgetError or ModelError for networks and tasks that it makes nothing of. by_hand: its edits for spans that are
    given; by default the operator in each.
    """

    name: str
    title: str
    source: str
    operator: str
    choose: Choose
    check: Check
    metric: str = ""
    num_samples: int = 0
    suits: Suits | None = None
    by_hand: ByHand | None = None

    def check_suits(self, subject: Subject) -> None:
        """Raises BudgetError or ModelError where it makes nothing of the network or of the task."""
        if self.suits is not None:
            self.suits(subject)

    def cut(self, subject: Subject, options: PlanOptions) -> tuple[Edit, ...]:
        """Its edits for spans that are given, or for a budget."""
        if options.span:
            spans = tuple(map(Span.parse, options.span))
            if self.by_hand is not None:
                return self.by_hand(subject, spans)
            return plan_by_hand(subject.chain, spans, operator=self.operator).edits
        budget = Budget.parse(options.remove or "")
        if not self.metric:
            self._compare(subject, "data", subject.task.batches("fit").num_samples)
            return self.choose(subject, budget)
        score = subject.scored(self.metric)
        self._compare(subject, score.title, score.num_samples)
        return self.choose(subject.chain, score, budget)

    def _compare(self, subject: Subject, what: str, num_samples: int) -> None:
        """Say where it reads fewer samples than in its paper."""
        if num_samples < self.num_samples:
            subject.reporter.line(
                f"{self.title} reads {what} on {self.num_samples:,} samples; here it is read on "
                f"{num_samples:,}. Give --num-fit {self.num_samples} when scoring for the same."
            )


methods: Registry[Method] = Registry("method", "delayer.search.methods")


def method(
    name: str,
    *,
    title: str,
    source: str,
    operator: str,
    check: Check,
    metric: str = "",
    num_samples: int = 0,
    suits: Suits | None = None,
    by_hand: ByHand | None = None,
) -> Callable[[Choose], Choose]:
    """Register a function as the choice of a published method; see `Method`."""

    def add(choose: Choose) -> Choose:
        one = Method(name, title, source, operator, choose, check, metric, num_samples, suits, by_hand)
        methods.register(name, choose)(one)
        return choose

    return add


def num_asked(budget: Budget, title: str) -> int:
    """The number of blocks to remove. Raises BudgetError for a budget of another kind, which these methods lack."""
    if budget.unit != "blocks":
        raise BudgetError(f"{title} removes a number of blocks; {budget} was asked for. Use --remove blocks=N or --span.")
    return int(budget.amount)


def free_blocks(chain: Chain) -> list[int]:
    """Blocks that can go and that count in a budget of blocks."""
    return [i for i, block in enumerate(chain.blocks) if block.removable and chain.weight(i)]


def check_blocks(chain: Chain, budget: Budget, title: str, blocks: Sequence[int]) -> int:
    """The number of blocks to remove. Raises BudgetError where fewer of these can go."""
    num = num_asked(budget, title)
    if len(blocks) < num:
        raise BudgetError(f"Removing {budget} cannot be met: at most {len(blocks)} blocks can go ({chain!r}).", most=len(blocks))
    return num


def spans_of(chain: Chain, num: int) -> list[Span]:
    """Every span that can go and holds just `num` blocks that count."""
    return [
        span
        for span in chain.spans()
        if sum(map(chain.weight, range(span.start, span.stop))) == num
        and chain.weight(span.start)
        and chain.weight(span.stop - 1)
    ]


def check_spans(chain: Chain, budget: Budget, title: str, spans: Callable[[int], Sequence[Span]] | None = None) -> None:
    """Raises BudgetError where no one span holds so many blocks. spans: those of so many that may go, by default all."""
    num, offered = num_asked(budget, title), spans or (lambda num: spans_of(chain, num))
    if offered(num):
        return
    most = next((fewer for fewer in range(min(num, chain.num_blocks), 0, -1) if offered(fewer)), 0)
    raise BudgetError(
        f"{title} removes one contiguous span, and none of {num} blocks can go, but one of {most} ({chain!r}). Ask for fewer, or "
        "use --method shortgpt, which takes blocks anywhere.",
        most=most,
    )


def joined(chain: Chain, blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Blocks as spans (start, stop), neighbours that hand over the same tensor together."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        follows = runs and runs[-1][-1] == block - 1 and chain.blocks[block - 1].outlet == chain.blocks[block].inlet
        runs[-1].append(block) if follows else runs.append([block])
    return [(run[0], run[-1] + 1) for run in runs]


__all__ = ["Method", "check_blocks", "check_spans", "free_blocks", "joined", "method", "methods", "num_asked", "spans_of"]


def __dir__() -> list[str]:
    return sorted(__all__)
