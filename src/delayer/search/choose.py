"""What to cut from a network, chosen on validation data: the whole search, without a study folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from delayer.cutting import Plan
from delayer.edits import Edit
from delayer.errors import BudgetError, ModelError
from delayer.fitting.operators import Operator
from delayer.network.chain import Chain, Span
from delayer.observing.one_pass import device_of
from delayer.progress import Reporter
from delayer.search.asked import check_asked
from delayer.search.candidates import Found, chosen_anew
from delayer.search.dropping import dropped, drops_alone
from delayer.search.given_spans import by_hand
from delayer.search.methods import methods
from delayer.search.options import PlanOptions, ScanOptions
from delayer.search.preferring import ordinary_wins
from delayer.search.refitting import refitted
from delayer.search.repairing import repaired, settled
from delayer.search.replacing import replaced
from delayer.search.subject import Subject
from delayer.study import Candidates, Scan, first_fault
from delayer.tasks import Task


@dataclass(frozen=True)
class Choice:
    """A plan, and what led to it.

    cut: its edits, before any repair. candidates: the cuts that were measured. spans: the operators that were judged on spans
    given by hand.
    """

    plan: Plan
    cut: tuple[Edit, ...]
    candidates: Candidates | None = None
    spans: Scan | None = None


def plan(
    chain: Chain,
    task: Task,
    *,
    remove: str | None = None,
    max_drop: float | None = None,
    spans: Iterable[Span | str] | str = (),
    method: str = "ours",
    operator: str | Operator | None = None,
    operators: Iterable[str] | str | None = None,
    refit: Literal["best", "independent", "sequential"] = "best",
    repair: Literal["auto", "none", "resolve", "norms", "best"] = "auto",
    repair_samples: int = 256,
    prefer: Literal["ordinary", "accuracy"] = "ordinary",
    samples: int = 128,
    effort: int = 24,
    share: float = 0.25,
    memory: float = 4.0,
    seed: int = 0,
    name: str = "",
    reporter: Reporter | None = None,
) -> Plan:
    """What to cut from a network, chosen on the task's validation data; nothing is written, and the network stays as it is.

    chain: from `chain_of`. task: from `open_task` or `task_of`.
    Exactly one of remove ("blocks=3", "params=25%", "macs=25%", "latency=20%"), max_drop (points of the validation grade) and
    spans (by hand) says how much.
    method: "ours", searched and measured, or a published one. operator: what stands in spans by hand, a name or an operator with
    options of its own, such as `LowRank(rank=32)`; chosen on held-out data by default. operators: what a search may put in, by
    default `scanned_operators`.
    refit, repair, repair_samples, prefer, samples, effort: see `PlanOptions`; share, memory (GiB): see `ScanOptions`.
    Raises BudgetError, SpanError, PlanError or ModelError for what cannot be done, before any work where that can be known.
    """
    by_hand = (spans,) if isinstance(spans, str) else tuple(map(str, spans))
    names = operators if operators is None or isinstance(operators, str) else ",".join(operators) or ","
    own = operator.model_dump(exclude_unset=True) if isinstance(operator, Operator) else {}
    try:
        options = PlanOptions(
            remove=remove,
            max_drop=max_drop,
            span=by_hand,
            method=method,
            operator=operator.name if isinstance(operator, Operator) else operator,
            operator_options=own,
            refit=refit,
            repair=repair,
            repair_samples=repair_samples,
            prefer=prefer,
            samples=samples,
            effort=effort,
        )
        scan_options = ScanOptions(share=share, memory=memory, operators=names or "")
    except ValidationError as error:
        raise BudgetError(f"That cannot be planned: {first_fault(error)}. See help(delayer.plan).") from error
    subject = Subject(
        name=name or type(chain.model).__name__,
        chain=chain,
        task=task,
        device=device_of(chain.model),
        seed=seed,
        reporter=reporter or Reporter(),
    )
    return choose(subject, options, scan_options).plan


def choose(subject: Subject, options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> Choice:
    """What to cut from a subject. Raises what `plan` raises."""
    check_asked(subject, options, scan_options)
    options = settled(subject, options)
    if options.method != "ours":
        found = Found(methods[options.method].cut(subject, options))
    elif options.span:
        found = by_hand(subject, [Span.parse(text) for text in options.span], options, scan_options)
    elif drops_alone(subject, options, scan_options):
        found = dropped(subject, options)
    else:
        found = replaced(subject, options, scan_options)
    return settled_on(subject, found, options)


def settled_on(subject: Subject, found: Found, options: PlanOptions) -> Choice:
    """The plan of what was found, fitted and repaired; of two cuts both, so that what is compared is what is handed over."""
    chosen, notes = _handed(subject, found.cut, options)
    cut, candidates = found.cut, found.candidates
    if found.rival is not None:
        small = subject.applied(chosen)
        try:
            other, others = _handed(subject, found.rival, options)
        except ModelError as error:
            subject.notes.append(f"A cut that the network's own library opens could not be judged as it would be ({error}).")
        else:
            subject.keep(other, (chosen, small))
            if ordinary_wins(subject, chosen, other):
                chosen, notes, cut = other, others, found.rival
                candidates = candidates and chosen_anew(candidates, cut)
    subject.notes += notes
    subject.keep(chosen)
    return Choice(chosen, cut, candidates, found.spans)


def _handed(subject: Subject, cut: tuple[Edit, ...], options: PlanOptions) -> tuple[Plan, list[str]]:
    """A cut's plan as it would be handed over, and what there is to say of it."""
    before = len(subject.notes)
    plan = repaired(subject, refitted(subject, cut, options), options)
    notes, subject.notes[before:] = subject.notes[before:], []
    return plan, notes
