"""Cuts judged by the real network on validation data, and what they cost."""

from collections.abc import Callable, Sequence
from functools import partial

from delayer.fitting.evidence import Evidence
from delayer.observing.stats import Moments
from delayer.progress import Tick
from delayer.search.additive import Changes
from delayer.search.judging import Cut, Failure, MeasuredCut, Measuring, Verdict, damage_of, ensure_judged, takes
from delayer.search.options import PlanOptions
from delayer.search.repairing import graded_after_repair
from delayer.search.subject import Subject
from delayer.search.ties import best_first, best_of
from delayer.study import Grade
from delayer.tasks import grade_of

NUM_FINALISTS = 3


def measuring(
    subject: Subject,
    moments: Moments | None,
    options: PlanOptions,
    key: Sequence,
    *,
    tick: Tick | None = None,
    expected: int = 0,
    changes: Changes | None = None,
) -> Measuring:
    """Grades cuts on validation data, after a quick repair where one was asked for.

    What the subject remembers is not measured again.

    key: what else decides the grades. tick, expected: progress, in cuts measured of about so many. changes: hears what single
    cuts do to the answers.
    """
    quick = [options.repair_samples] if options.repair in ("resolve", "best") else []
    blocks = [block.path for block in subject.chain.blocks]
    known, remember = subject.memory(blocks, options.samples, *quick, *key)
    verdicts: dict[str, Verdict] = dict(known)
    reference = subject.reference  # of the network as it is: inside `grade` it is cut

    def grade(cut: Cut) -> Grade:
        if quick and (found := graded_after_repair(subject, cut, options)):
            return found
        outputs = subject.judged(cut, Evidence(moments), options.samples)
        if changes is not None and changes.wants(cut):
            changes.note(cut[0], outputs)
        return grade_of(outputs, reference, seed=subject.seed)

    def measured(cut: str, found: Grade) -> None:
        if remember:
            remember(cut, found)
        if tick:
            tick(min(len(verdicts), expected), expected)

    return Measuring(grade, verdicts, measured, wanted=None if changes is None or quick else changes.wants)


def best_of_finalists(
    subject: Subject,
    measured: Sequence[MeasuredCut],
    measure: Measuring,
    moments: Moments | None,
    options: PlanOptions,
    key: Sequence,
    *,
    unit: str = "blocks",
    missed: Callable[[Cut], float] | None = None,
) -> Cut:
    """Of the cuts that did best on the search's samples, the one that does best on all of validation; ties: see `takes`.

    key: as for `measuring`. missed: what cuts miss, for those that tie.
    Raises ModelError where none of them can be judged on all of validation.
    """
    order = partial(takes, subject.chain, unit=unit, missed=missed)
    judged = [cut for cut, _, found in measured if not isinstance(found, Failure)]
    finalists = best_first(judged, lambda cut: damage_of(measure(cut)), order)[:NUM_FINALISTS]
    if options.samples >= subject.task.batches("validation").num_samples or len(finalists) < 2:
        return finalists[0]
    everything = options.model_copy(update={"samples": subject.task.batches("validation").num_samples})
    with subject.reporter.step("Finalists on all of validation") as tick:
        judge = measuring(subject, moments, everything, ["finalists", *key], tick=tick, expected=len(finalists))
        ensure_judged((cut, judge(cut)) for cut in finalists)
        return best_of(finalists, lambda cut: damage_of(judge(cut)), order)


def original_grade(subject: Subject) -> Grade:
    """The original's own grade on validation data."""
    return grade_of(subject.reference, subject.reference, seed=subject.seed)
