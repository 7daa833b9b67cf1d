"""The cuts that were measured, as a study keeps them, and what a search found."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from delayer.edits import Edit
from delayer.measure import num_params
from delayer.network.chain import Chain
from delayer.search.judging import Cut, Failure, MeasuredCut, Verdict
from delayer.search.measuring import original_grade
from delayer.search.preferring import library_of, opens_in
from delayer.search.subject import Subject
from delayer.study import Candidates, Measured, Scan


class Found(NamedTuple):
    """What a search found: the cut; the cuts that were measured for it; the operators that were judged on spans given by hand.

    rival: the best cut that the network's own library opens, where it does not open the first and such a one may win.
    """

    cut: Cut
    candidates: Candidates | None = None
    spans: Scan | None = None
    rival: Cut | None = None


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
                    opens_in=opens_in(subject, edits),
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
        library=library_of(subject),
        measured=tuple(rows),
    )


def chosen_anew(candidates: Candidates, cut: Cut) -> Candidates:
    """The same with another cut chosen."""
    edits = {edit.info() for edit in cut}
    rows = tuple(row.model_copy(update={"chosen": set(row.edits) == edits}) for row in candidates.measured)
    return candidates.model_copy(update={"measured": rows})


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


def measured_record(
    cut: Cut, predicted: float, grade: Verdict, *, params: int, macs: int | None, opens_in: tuple[str, str], chosen: bool
) -> Measured:
    """A measured cut as the study keeps it; one that failed, with its reason and without numbers.

    opens_in: the library that opens what it leaves, and why none does.
    """
    edits = tuple(edit.info() for edit in cut)
    if isinstance(grade, Failure):
        return Measured(
            edits=edits,
            predicted=predicted,
            kl=None,
            grade=None,
            params=params,
            macs=macs,
            opens_in=opens_in[0],
            closed=opens_in[1],
            chosen=chosen,
            failed=grade.reason,
        )
    shares = grade.agreement is None and grade.error is None and grade.cosine is None  # then the grade itself is one
    return Measured(
        edits=edits,
        predicted=predicted,
        kl=grade.kl,
        error=grade.error,
        correlation=grade.correlation,
        pair_correlation=grade.pair_correlation,
        agreement=grade.value if shares else grade.agreement,
        grade=grade.value,
        params=params,
        macs=macs,
        opens_in=opens_in[0],
        closed=opens_in[1],
        chosen=chosen,
    )
