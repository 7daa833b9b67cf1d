"""Cuts judged by the real network on validation data, remembered in the study folder, and what they cost."""

import json
from collections.abc import Sequence

from delayer.chain import Chain
from delayer.edits import Edit
from delayer.measure import num_params
from delayer.plan import edit_modules_
from delayer.planner import Cut, Measuring, damage_of, measured_record
from delayer.progress import Tick
from delayer.stages.options import PlanOptions
from delayer.stages.repair import graded_after_repair
from delayer.stages.work import Work, stage_key
from delayer.stats import Moments
from delayer.study import Candidates, Grade
from delayer.tasks import evaluate, grade_of

NUM_FINALISTS = 3


def measuring(work: Work, moments: Moments, options: PlanOptions, key: Sequence, *, tick: Tick | None = None,
              expected: int = 0) -> Measuring:
    """Grades cuts on validation data, after a quick repair where one was asked for.

    What was measured is kept in the folder, so that a killed search goes on.

    key: what else decides the grades. tick, expected: progress, in cuts measured of about so many.
    """
    quick = [options.repair_samples] if options.repair in ("resolve", "best") else []
    name = stage_key(work, "measure", options.samples, *quick, *key, work.task_options)
    path = work.study.path(".measured.jsonl")
    known: dict[str, Grade] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # a line cut short by a crash
                continue
            if entry["key"] == name:
                known[entry["cut"]] = Grade.model_validate(entry["grade"])

    reference = work.reference  # of the network as it is: inside `grade` it is cut

    def grade(cut: Cut) -> Grade:
        if quick and (found := graded_after_repair(work, cut, options)):
            return found
        with work.chain.restored():
            edit_modules_(work.chain, cut, moments)
            return evaluate(work.model, work.task, "validation", reference=reference, device=work.device,
                            limit=options.samples, seed=work.seed)

    def remember(cut: str, found: Grade) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"key": name, "cut": cut, "grade": found.model_dump(mode="json")}) + "\n")
        if tick:
            tick(min(len(known), expected), expected)

    work.study.folder.mkdir(parents=True, exist_ok=True)
    return Measuring(grade, known, remember)


def best_of_finalists(work: Work, cuts: Sequence[Cut], measure: Measuring, moments: Moments, options: PlanOptions) -> Cut:
    """Of the cuts that did best on the search's samples, the one that does best on all of validation."""
    finalists = sorted(cuts, key=lambda cut: damage_of(measure(cut)))[:NUM_FINALISTS]
    if options.samples >= work.task.batches("validation").num_samples or len(finalists) < 2:
        return finalists[0]
    everything = options.model_copy(update={"samples": work.task.batches("validation").num_samples})
    with work.reporter.step("Finalists on all of validation") as tick:
        judge = measuring(work, moments, everything, ["finalists"], tick=tick, expected=len(finalists))
        return min(finalists, key=lambda cut: damage_of(judge(cut)))


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


def write_candidates(work: Work, cut: tuple[Edit, ...], measured: Sequence[tuple]) -> None:
    original = original_grade(work)
    total, seen, rows = num_params(work.model), set(), []
    for edits, predicted, grade in measured:
        names = tuple(e.label for e in edits)
        if names not in seen:
            seen.add(names)
            rows.append(measured_record(edits, predicted, grade, params=cut_params(work.chain, edits, total),
                                        macs=cut_macs(work, edits), chosen=set(edits) == set(cut)))
    rows.sort(key=lambda r: r.kl if r.kl is not None else r.error or 0.0)
    work.study.write("candidates", Candidates(
        grade_name=original.name, grade_unit=original.unit, higher_is_better=original.higher_is_better,
        original_grade=original.value, measured=tuple(rows)))


