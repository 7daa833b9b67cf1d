"""Cuts judged by the real network on validation data, remembered in the study folder, and what they cost."""

from collections.abc import Mapping, Sequence
from functools import partial

from delayer.cutting import edit_modules_
from delayer.edits import Edit
from delayer.measure import num_params
from delayer.network.chain import Chain
from delayer.observing.stats import Moments
from delayer.progress import Tick
from delayer.search.judging import Cut, Failure, MeasuredCut, Measuring, Verdict, damage_of, ensure_judged, takes
from delayer.search.planner import measured_record
from delayer.search.ties import best_first, best_of
from delayer.stages.artefacts import stage_key
from delayer.stages.journal import Journal
from delayer.stages.options import PlanOptions
from delayer.stages.repair import graded_after_repair
from delayer.stages.work import Work
from delayer.study import Candidates, Grade
from delayer.study.version import __version__
from delayer.tasks import evaluate, grade_of

NUM_FINALISTS = 3


def measuring(
    work: Work, moments: Moments, options: PlanOptions, key: Sequence, *, tick: Tick | None = None, expected: int = 0
) -> Measuring:
    """Grades cuts on validation data, after a quick repair where one was asked for.

    What was measured is kept in the folder, so that a killed search goes on.

    key: what else decides the grades. tick, expected: progress, in cuts measured of about so many.
    """
    quick = [options.repair_samples] if options.repair in ("resolve", "best") else []
    blocks = [block.path for block in work.chain.blocks]
    name = stage_key(work, "measure", __version__, blocks, options.samples, *quick, *key, work.task_options)
    journal = Journal(work.study.path(".measured.jsonl"), name)
    known: dict[str, Verdict] = dict(journal.read())
    if journal.damage and journal.damage not in work.warnings:
        work.warnings.append(journal.damage)
        work.reporter.line(journal.damage)

    reference = work.reference  # of the network as it is: inside `grade` it is cut

    def grade(cut: Cut) -> Grade:
        if quick and (found := graded_after_repair(work, cut, options)):
            return found
        with work.chain.restored():
            edit_modules_(work.chain, cut, moments)
            return evaluate(
                work.model,
                work.task,
                "validation",
                reference=reference,
                device=work.device,
                limit=options.samples,
                seed=work.seed,
            )

    def remember(cut: str, found: Grade) -> None:
        journal.append(cut, found)
        if tick:
            tick(min(len(known), expected), expected)

    return Measuring(grade, known, remember)


def best_of_finalists(
    work: Work,
    measured: Sequence[MeasuredCut],
    measure: Measuring,
    moments: Moments,
    options: PlanOptions,
    key: Sequence,
    *,
    unit: str = "blocks",
) -> Cut:
    """Of the cuts that did best on the search's samples, the one that does best on all of validation; ties: see `takes`.

    key: as for `measuring`. Raises ModelError where none of them can be judged on all of validation.
    """
    order = partial(takes, work.chain, unit=unit)
    judged = [cut for cut, _, found in measured if not isinstance(found, Failure)]
    finalists = best_first(judged, lambda cut: damage_of(measure(cut)), order)[:NUM_FINALISTS]
    if options.samples >= work.task.batches("validation").num_samples or len(finalists) < 2:
        return finalists[0]
    everything = options.model_copy(update={"samples": work.task.batches("validation").num_samples})
    with work.reporter.step("Finalists on all of validation") as tick:
        judge = measuring(work, moments, everything, ["finalists", *key], tick=tick, expected=len(finalists))
        ensure_judged((cut, judge(cut)) for cut in finalists)
        return best_of(finalists, lambda cut: damage_of(judge(cut)), order)


def original_grade(work: Work) -> Grade:
    """The original's own grade on validation data."""
    return grade_of(work.reference, work.reference, seed=work.seed)


def cut_params(chain: Chain, cut: Sequence[Edit], total: int) -> int:
    """Parameters after a cut."""
    for edit in cut:
        total -= sum(num_params(chain.module(b)) for span in edit.removed for b in range(span.start, span.stop))
        total += edit.num_params(chain)
    return total


def cut_macs(work: Work, cut: Sequence[Edit]) -> int | None:
    """Multiply-adds for one sample after a cut."""
    total = work.macs
    for edit in cut:
        total -= sum(work.block_macs[b] for span in edit.removed for b in range(span.start, span.stop))
        total += edit.num_macs(work.chain)
    return total


def write_candidates(work: Work, cut: tuple[Edit, ...], measured: Sequence[MeasuredCut], failed: Mapping[Cut, Failure]) -> None:
    """candidates.json: the cuts that were measured, best first; those that failed last, with their reasons.

    failed: all that failed on the way, also before sets were measured.
    """
    measured = [*measured, *((edits, 0.0, found) for edits, found in failed.items())]
    original = original_grade(work)
    total, seen, rows = num_params(work.model), set(), []
    for edits, predicted, grade in measured:
        names = tuple(e.label for e in edits)
        if names not in seen:
            seen.add(names)
            rows.append(
                measured_record(
                    edits,
                    predicted,
                    grade,
                    params=cut_params(work.chain, edits, total),
                    macs=cut_macs(work, edits),
                    chosen=set(edits) == set(cut),
                )
            )
    rows.sort(key=lambda r: (bool(r.failed), r.kl if r.kl is not None else r.error or 0.0))
    if broken := [row for row in rows if row.failed]:
        work.notes.append(
            f"{len(broken)} of {len(rows)} cuts could not be judged and count as infinitely bad; the first, "
            f"{'; '.join(edit.label for edit in broken[0].edits)}, failed with {broken[0].failed}."
        )
    work.study.write(
        "candidates",
        Candidates(
            grade_name=original.name,
            grade_unit=original.unit,
            higher_is_better=original.higher_is_better,
            original_grade=original.value,
            measured=tuple(rows),
        ),
    )
