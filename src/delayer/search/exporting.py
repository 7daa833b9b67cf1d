"""Whether what a cut leaves exports to ONNX, found before anything is cut.

An exporter stumbles over kinds of blocks, not over their number: so one block of each kind that is left, with all that stands
around the blocks, is exported and compared with torch, in seconds. What `check` and `export` write is the whole network.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from delayer.cutting import edit_modules_
from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.errors import ExportError
from delayer.measure import num_params
from delayer.network.calling import call, evaluating
from delayer.network.chain import Chain
from delayer.search.judging import reason_of
from delayer.search.subject import Subject
from delayer.store.shorter.likeness import looks_of
from delayer.study import Candidates, Measured

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_PARAMS = 250_000_000
"""A trial of more would take minutes and several times its weights in memory."""
Kinds = tuple[frozenset, frozenset]


def with_trial(subject: Subject, found: Candidates, cut: Sequence[Edit], how: str) -> Candidates:
    """The cuts that were measured, with what a trial export says of the chosen one and of all that leave the same kinds.

    cut: the chosen one. how: the command that exports the whole.
    """
    if not any(one.chosen and not one.failed for one in found.measured):
        return found
    verdict, note = _tried(subject, cut, how)
    kinds = kinds_of(subject.chain, *_facts(cut))
    return found.model_copy(
        update={
            "onnx_note": note,
            "measured": tuple(
                one.model_copy(update={"onnx": verdict}) if kinds_of(subject.chain, *_recorded(one)) == kinds else one
                for one in found.measured
            ),
        }
    )


def kinds_of(chain: Chain, gone: set[int], maps: Sequence[str]) -> Kinds:
    """What decides whether the rest exports: the looks of the blocks that stay, and the kinds of maps beside them."""
    return frozenset(looks_of(chain.module(i)) for i in range(chain.num_blocks) if i not in gone), frozenset(maps)


def _facts(cut: Sequence[Edit]) -> tuple[set[int], list[str]]:
    touched = {block for edit in cut for span in edit.removed for block in range(span.start, span.stop)}
    return touched, [edit.stands_there for edit in cut if edit.reshapes]


def _recorded(one: Measured) -> tuple[set[int], list[str]]:
    touched = {block for edit in one.edits for start, stop in edit.spans if edit.operator for block in range(start, stop)}
    return touched, [edit.operator for edit in one.edits if edit.operator not in ("", "drop")]


def _tried(subject: Subject, cut: Sequence[Edit], how: str) -> tuple[bool | None, str]:
    """Whether the small network exports, None where nobody knows; and a sentence."""
    chain = subject.chain
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        return None, f"ONNX was not tried, since {', '.join(missing)} is not installed (pip install 'delayer[onnx]')."
    with chain.restored():
        chain.hollow, before = True, chain.hollow
        try:
            edit_modules_(chain, [edit for edit in cut if edit.reshapes or edit.gone], None)
        finally:
            chain.hollow = before
        edit_modules_(chain, list(_repeats(chain, _facts(cut)[0])), None)
        if (size := num_params(chain.model)) > MOST_PARAMS:
            return None, f"ONNX was not tried: one block of each kind has {size:,} parameters already. {how} tries it."
        with subject.reporter.step("Trying ONNX with one block of each kind"):
            return _exported(subject, how)


def _exported(subject: Subject, how: str) -> tuple[bool | None, str]:
    from delayer.measure.onnx import export_onnx

    try:
        with evaluating(subject.model):
            call(subject.model, subject.example)
    except Exception as error:  # a network that reads what certain blocks leave behind
        why = f"the network does not run on one block of each kind ({reason_of(error)})"
        return None, f"ONNX was not tried, since {why}. {how} tries it."
    try:
        with TemporaryDirectory() as folder:
            export_onnx(subject.model, subject.example, Path(folder) / "trial.onnx")
    except ExportError as error:
        reason = str(error).partition("trial.onnx: ")[2].partition(" Nothing was written.")[0] or str(error)
        return False, f"ONNX: one block of each kind that is left does not export: {reason}"
    return True, f"ONNX ✓: one block of each kind that is left exports and agrees with torch; {how} exports the whole."


def _repeats(chain: Chain, touched: set[int]) -> Iterator[DropSpan]:
    """Drops of all blocks that look like an earlier one, in runs that can go."""
    seen: set[tuple] = set()
    again = set(touched)
    for block in range(chain.num_blocks):
        if block not in touched:
            looks = looks_of(chain.module(block))
            if looks in seen and chain.blocks[block].removable:
                again.add(block)
            seen.add(looks)
    for block in sorted(again - touched):
        yield DropSpan(start=block, stop=block + 1)
