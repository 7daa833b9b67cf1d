"""What a study says was cut: the spans that went, what stands in for them, and each operator's colour."""

from dataclasses import dataclass
from typing import NamedTuple

from delayer.report.formats import missing
from delayer.study import Candidates, EditInfo, Results, Scan, SpanDamage

# After Okabe and Ito (2008), safe for colour-blind eyes; all of them show on light and on dark pages.
PALETTE = ("#e69f00", "#0f83c9", "#12a37c", "#cc79a7", "#d55e00", "#56b4e9", "#8f7ee7", "#a3a32a")


class Cut(NamedTuple):
    """One edit, named by a letter in the drawing and in the tables."""

    letter: str
    edit: EditInfo
    operator: str
    """As shown: "low rank" for low_rank."""
    removes: bool
    """Whether its blocks go; if not, they stay and are changed inside."""
    damage: SpanDamage | None
    """What the scan predicted for this very operator, and rank, on this span."""


@dataclass(frozen=True)
class Choice:
    """The edits that a study settled on, and the colour of each operator."""

    cuts: tuple[Cut, ...]
    colours: dict[str, str]

    @property
    def spans(self) -> tuple[tuple[Cut, int, int], ...]:
        """The removed spans, each with its cut, from the first block on."""
        found = [(cut, *span) for cut in self.cuts if cut.removes for span in cut.edit.spans]
        return tuple(sorted(found, key=lambda item: item[1]))


def choice_of(scan: Scan | None, candidates: Candidates | None, results: Results | None) -> Choice:
    """What was cut at last, else the candidate that was chosen, else nothing."""
    edits: tuple[EditInfo, ...] = ()
    if results:
        edits = results.edits
    elif candidates:
        edits = next((m.edits for m in candidates.measured if m.chosen), ())
    cuts = tuple(_cut(_letter(i), edit, scan) for i, edit in enumerate(edits))
    operators = dict.fromkeys([*errors_of(scan), *(cut.operator for cut in cuts)])
    return Choice(cuts, {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(operators)})


def errors_of(scan: Scan | None) -> dict[str, dict[tuple[int, int], SpanDamage]]:
    """Each operator's error on each span; of several ranks the one of least held-out error."""
    found: dict[str, dict[tuple[int, int], SpanDamage]] = {}
    for damage in scan.spans if scan else ():
        if not missing(damage.residual):
            mine, span = found.setdefault(shown(damage.operator), {}), (damage.start, damage.stop)
            if span not in mine or damage.residual < mine[span].residual:
                mine[span] = damage
    return found


def shown(operator: str) -> str:
    """An operator's name for people."""
    return operator.replace("_", " ")


def blocks_text(start: int, stop: int) -> str:
    """Blocks start .. stop-1 in words."""
    return f"block {start}" if stop == start + 1 else f"blocks {start}–{stop - 1}"


def _cut(letter: str, edit: EditInfo, scan: Scan | None) -> Cut:
    """An edit that names an operator has put it where blocks stood; others change blocks."""
    removes = bool(edit.operator) or edit.edit.endswith("_span")
    name = shown(edit.operator or edit.edit.removesuffix("_span"))
    on_it = [d for d in scan.spans if (d.start, d.stop) in edit.spans] if scan and removes else []
    named = [d for d in on_it if d.title in edit.label]
    damage = max(named, key=lambda d: len(d.title), default=None)
    return Cut(letter, edit, shown(damage.operator) if damage else name, removes, damage)


def _letter(i: int) -> str:
    """A, B ... Z, AA, AB ..."""
    return (_letter(i // 26 - 1) if i >= 26 else "") + chr(65 + i % 26)
