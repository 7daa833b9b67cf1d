"""Cuts judged by the real network on validation data, and what they cost."""

from collections.abc import Mapping, Sequence
from functools import partial

from delayer.edits import Edit
from delayer.fitting.evidence import Evidence
from delayer.measure import num_params
from delayer.network.chain import Chain
from delayer.observing.stats import Moments
from delayer.progress import Tick
from delayer.search.additive import Changes
from delayer.search.judging import Cut, Failure, MeasuredCut, Measuring, Verdict, damage_of, ensure_judged, takes
from delayer.search.options import PlanOptions
from delayer.search.planner import measured_record
from delayer.search.preferring import opens_in
from delayer.search.repairing import graded_after_repair
from delayer.search.subject import Subject
from delayer.search.ties import best_first, best_of
from delayer.study import Candidates, Grade
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
) -> Cut:
    """Of the cuts that did best on the search's samples, the one that does best on all of validation; ties: see `takes`.

    key: as for `measuring`. Raises ModelError where none of them can be judged on all of validation.
    """
    order = partial(takes, subject.chain, unit=unit)
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


def cut_params(chain: Chain, cut: Sequence[Edit], total: int) -> int:
    """Parameters after a cut."""
    for edit in cut:
        total -= sum(num_params(chain.module(b)) for span in edit.removed for b in range(span.start, span.stop))
        total += edit.num_params(chain)
    return total


def cut_macs(subject: Subject, cut: Sequence[Edit]) -> int | None:
    """Multiply-adds for one sample after a cut."""
    total = subject.macs
    if total is None:
        return None
    for edit in cut:
        total -= sum(subject.block_macs[b] for span in edit.removed for b in range(span.start, span.stop))
        total += edit.num_macs(subject.chain)
    return total


def candidates_of(
    subject: Subject, cut: tuple[Edit, ...], measured: Sequence[MeasuredCut], failed: Mapping[Cut, Failure]
) -> Candidates:
    """The cuts that were measured, best first; those that failed last, with their reasons.

    failed: all that failed on the way, also before sets were measured.
    """
    measured = [*measured, *((edits, 0.0, found) for edits, found in failed.items())]
    original = original_grade(subject)
    total, seen, rows = num_params(subject.model), set(), []
    for edits, predicted, grade in measured:
        names = tuple(e.label for e in edits)
        if names not in seen:
            seen.add(names)
            rows.append(
                measured_record(
                    edits,
                    predicted,
                    grade,
                    params=cut_params(subject.chain, edits, total),
                    macs=cut_macs(subject, edits),
                    opens_in=opens_in(subject, edits)[0],
                    chosen=set(edits) == set(cut),
                )
            )
    rows.sort(key=lambda r: (bool(r.failed), r.kl if r.kl is not None else r.error or 0.0))
    if broken := [row for row in rows if row.failed]:
        subject.notes.append(
            f"{len(broken)} of {len(rows)} cuts could not be judged and count as infinitely bad; the first, "
            f"{'; '.join(edit.label for edit in broken[0].edits)}, failed with {broken[0].failed}."
        )
    return Candidates(
        grade_name=original.name,
        grade_unit=original.unit,
        higher_is_better=original.higher_is_better,
        original_grade=original.value,
        measured=tuple(rows),
    )
