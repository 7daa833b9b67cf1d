"""What a study folder holds that a page can be made of: damaged and contradictory files are left out, and named."""

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from delayer.errors import StudyError
from delayer.study import Candidates, ChainInfo, EditInfo, Results, Scan, Scores, Shrunk, Sites, Study
from delayer.study.marks import FILE, doubts

MOST_BLOCKS = 1000
"""Of a network whose spans a page can show; each map has a cell for each two of them."""


def readable(study: Study) -> tuple[dict[str, Any], list[str]]:
    """A study's records by name, None for one that is not there or cannot be used, and a sentence for each of those.

    Raises StudyError where study.json is damaged, which says what all others are about, or where nothing is left.
    """
    records: dict[str, Any] = {"study": study.read_or_none("study")}
    sentences: list[str] = []
    for name, (file, _, stage) in Study.FILES.items():
        try:
            if name not in records:
                there = os.path.lexists(study.path(file))  # a link that leads nowhere is no file that was never written
                records[name] = record = study.read(name) if there else None
                if record is not None and (why := contradiction(record, records["study"] and records["study"].chain)):
                    raise StudyError(f"{file} {why}. Run `delayer {stage}` again.")
        except StudyError as problem:
            records[name] = None
            sentences.append(f"Left out here: {problem}")
    if sentences and not any(records.values()):
        raise StudyError(sentences[0].removeprefix("Left out here: "))
    return records, sentences


def leave_out_(records: dict[str, Any], study: Study) -> list[str]:
    """Take out what is of another network than the rest of the folder; a sentence for each record that is in doubt.

    Spans that were judged by hand stand in where there is no scan of all.
    """
    try:
        found = doubts(study, records["study"])
    except StudyError as problem:
        found = {}
        sentences = [f"What belongs together in this folder is not known: {problem}"]
    else:
        sentences = [f"{doubt.why} It is left out here." if doubt.misleads else doubt.why for doubt in found.values()]
    if records["study"] is None and study.path(FILE).exists():
        sentences.append(
            "study.json, which says what was asked of which network, is gone. Name the network and its data once more."
        )
    records |= {name: None for name, doubt in found.items() if doubt.misleads}
    records["scan"] = records["scan"] or records["spans"]
    return sentences


def contradiction(record: Any, chain: ChainInfo | None) -> str:
    """What a record says of blocks that the study's network does not have; "" where they agree."""
    most = len(chain.blocks) if chain else MOST_BLOCKS
    if isinstance(record, Scan):
        if (last := max((span.stop for span in record.spans), default=0)) > min(most, MOST_BLOCKS):
            return (
                f"tells of spans up to block {last - 1}, and the network has {most} blocks"
                if chain and last > most
                else f"tells of spans up to block {last - 1}; a page can show networks of {MOST_BLOCKS} blocks"
            )
    elif isinstance(record, Scores):
        if chain and (wrong := next((s for s in record.scores if not _fits(s, chain)), None)):
            return f"tells of {wrong.name} at other points than the network's {len(chain.points)}"
        if any(row["block"] >= most for row in record.ranking):
            return f"ranks blocks that are not among the network's {most}"
    elif isinstance(record, Candidates):
        return next(filter(None, (_edits(one.edits, most) for one in record.measured)), "")
    elif isinstance(record, Results | Shrunk):
        return _edits(record.edits, most)
    elif isinstance(record, Sites) and any((site.block or 0) >= most for site in record.sites):
        return f"tells of activations in blocks that are not among the network's {most}"
    return ""


def _fits(score: Any, chain: ChainInfo) -> bool:
    return len(score.values) == (len(chain.blocks) if score.shape == "blocks" else len(chain.points))


def _edits(edits: Sequence[EditInfo], most: int) -> str:
    spans = sorted(span for edit in edits for span in edit.spans)
    if spans and (last := max(stop for _, stop in spans)) > most:
        return f"tells of an edit up to block {last - 1}, and the network has {most} blocks"
    if crossing := next(((one, two) for one, two in pairwise(spans) if one[1] > two[0]), None):
        return "tells of edits on {0[0]}:{0[1]} and {1[0]}:{1[1]}, which overlap".format(*crossing)
    return ""
