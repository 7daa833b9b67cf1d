"""Cuts whose result its own library opens: which they are, and whether one is as good as the best."""

from collections.abc import Callable, Sequence

from delayer.cutting import Plan
from delayer.edits import Edit
from delayer.observing.processes import from_first
from delayer.search.judging import Cut, Failure, MeasuredCut, Measuring, damage_of
from delayer.search.options import PlanOptions
from delayer.search.subject import Subject
from delayer.store.shorter.torchvision import is_torchvision
from delayer.tasks import predictions
from delayer.tasks.pairing import worse_by

LIBRARIES = {"huggingface": "transformers", "timm": "timm", "factory": "torchvision"}
"""Of a function's networks torchvision's own alone are known to be opened by what made them."""


def prefers(options: PlanOptions) -> bool:
    """Whether a cut that its own library opens wins over one that is as good."""
    return options.prefer == "ordinary"


def library_of(subject: Subject) -> str:
    """The library that made a network; "" for a function of the user's own, or where nothing says it."""
    shortening = subject.shortening
    if isinstance(shortening, str) or (shortening.source.kind == "factory" and not is_torchvision(subject.model)):
        return ""
    return LIBRARIES.get(shortening.source.kind, "")


def opens_in(subject: Subject, cut: Sequence[Edit]) -> tuple[str, str]:
    """The library that opens what a cut leaves, without delayer, or "" and why there is none."""
    if any(edit.reshapes for edit in cut):
        return "", "new maps stand in the network, which its library does not know"
    shortening = subject.shortening
    if isinstance(shortening, str):
        return "", shortening
    gone = set().union(*(edit.gone for edit in cut)) if cut else set()
    if reason := shortening.why_not(gone):
        return "", reason
    return library_of(subject), ""


def rival_of(
    subject: Subject,
    cut: Cut,
    measured: Sequence[MeasuredCut],
    measure: Measuring,
    allowed: Callable[[Cut], bool] = lambda cut: True,
) -> Cut | None:
    """The best of the cuts that the network's own library opens, where the chosen one is none of them; None where there is none.

    measured: all that did what was asked. allowed: a further condition on them.
    """
    if opens_in(subject, cut)[0]:
        return None
    judged = sorted(
        (one for one, _, found in measured if not isinstance(found, Failure) and allowed(one)),
        key=lambda one: damage_of(measure(one)),
    )
    return next((one for one in judged if opens_in(subject, one)[0]), None)


def ordinary_wins(subject: Subject, best: Plan, other: Plan) -> bool:
    """Whether validation cannot tell that what the library opens is worse, both as they are handed over; says which and why.

    best, other: plans of the least damage and of what the library opens, fitted and repaired as asked. Paired by sample: the
    other is worse where the whole 95 % interval of the difference is.
    """
    library, unit = opens_in(subject, other.edits)[0], " nats a token" if subject.reference.nll is not None else " points"
    found = []
    with subject.reporter.step(f"A cut that {library} opens beside the best, on all of validation") as tick:
        for done, plan in enumerate((other, best)):
            found.append(predictions(subject.applied(plan), subject.validation(), device=subject.device))
            tick(done + 1, 2)
    loss, (low, high) = worse_by(found[0], found[1], subject.reference, seed=subject.seed)
    mine, theirs = (", ".join(edit.label for edit in plan.edits if edit.removed) for plan in (other, best))
    repaired = " after repair" if any(not edit.removed for plan in (other, best) for edit in plan.edits) else ""
    interval = f"{loss:+.2f}{unit} on validation{repaired}, 95 % interval {low:+.2f} to {high:+.2f}"
    if low > 0:
        note = (
            f"Chosen: {theirs}. {library} does not open that by itself, and the best cut that it opens ({mine}) loses {interval}."
        )
    else:
        note = (
            f"Chosen: {mine}, which {library} opens without delayer and which is not measurably worse than {theirs} "
            f"(it loses {interval}). For the least damage, whatever opens it: --prefer accuracy."
        )
    subject.notes.append(note)
    subject.reporter.line(note)
    return from_first(low <= 0)
