"""What a plan says of ONNX before anything is cut is what the exporter says of the cut network afterwards."""

import pytest
import tiny
import torch

import delayer
from delayer.edits.drop_span import DropSpan
from delayer.edits.replace_span import ReplaceSpan
from delayer.errors import ExportError
from delayer.measure.onnx import export_onnx
from delayer.report.measured_tables import candidates_table, opens_text
from delayer.search.exporting import with_trial
from delayer.search.subject import Subject
from delayer.study import Candidates, Measured
from delayer.tasks import task_of

pytest.importorskip("onnxscript")
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Asks(tiny.Block):
    """Looks at its numbers in Python, which no tracer follows."""

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(x) + 1


class Counts(tiny.Digits):
    """Runs on so many of its blocks or not at all."""

    least = 0

    def forward(self, x):
        if sum(isinstance(block, tiny.Block) for block in self.blocks) < self.least:
            raise RuntimeError("more blocks are needed")
        return super().forward(x)


def about(kind=tiny.Digits, other: int | None = None) -> Subject:
    torch.manual_seed(0)
    model = kind().eval()
    if other is not None:
        model.blocks[other] = Asks(24)
    task = task_of([X[:4]], [X[4:]], [X[4:]], model=model)
    return Subject(name="tiny", chain=delayer.chain_of(model, X[:2]), task=task, device=torch.device("cpu"))


def measured(*cuts, chosen=0) -> Candidates:
    rows = [
        Measured(edits=tuple(edit.info() for edit in cut), predicted=0, kl=0.1, grade=90.0, params=1, macs=1, chosen=k == chosen)
        for k, cut in enumerate(cuts)
    ]
    return Candidates(grade_name="agreement", grade_unit="%", higher_is_better=True, original_grade=100.0, measured=tuple(rows))


def drop(start: int) -> DropSpan:
    return DropSpan(start=start, stop=start + 1)


@pytest.mark.slow
def test_all_cuts_that_leave_the_same_kinds_are_known_by_one_trial(tmp_path):
    subject, cuts = about(), [(drop(1),), (drop(3), drop(5)), (ReplaceSpan(start=1, stop=3),)]
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    found = with_trial(subject, measured(*cuts), cuts[0], "delayer export S")
    assert [one.onnx for one in found.measured] == [True, True, None]
    assert "delayer export S exports the whole" in found.onnx_note
    small = delayer.apply(subject.chain, delayer.plan_by_hand(subject.chain, ["1"], operator="drop"))
    assert export_onnx(small, X[:2], tmp_path / "whole.onnx").dynamic
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.model.state_dict().items())
    assert opens_text(found, found.measured[0]) == "delayer ✓, ONNX ✓"
    assert opens_text(found, found.measured[2]) == "delayer ✓, ONNX not tried"


@pytest.mark.slow
def test_a_kind_that_does_not_export_is_named_and_its_going_helps(tmp_path):
    subject, cuts = about(other=4), [(drop(1),), (drop(4),)]
    found = with_trial(subject, measured(*cuts), cuts[0], "delayer export S")
    assert [one.onnx for one in found.measured] == [False, None]
    assert "one block of each kind that is left does not export" in found.onnx_note
    assert "ONNX ✗" in candidates_table(found).rows[0][1] and candidates_table(found).note == found.onnx_note
    small = delayer.apply(subject.chain, delayer.plan_by_hand(subject.chain, ["1"], operator="drop"))
    with pytest.raises(ExportError):
        export_onnx(small, X[:2], tmp_path / "whole.onnx")
    without = with_trial(subject, measured(*cuts, chosen=1), cuts[1], "delayer export S")
    assert [one.onnx for one in without.measured] == [None, True]


def test_a_map_is_tried_in_its_place():
    subject, cut = about(), (ReplaceSpan(start=1, stop=3, operator="diagonal"),)
    blocks = list(subject.model.blocks)
    assert with_trial(subject, measured(cut), cut, "x").measured[0].onnx is True
    assert list(subject.model.blocks) == blocks and not subject.chain.hollow


def test_what_does_not_run_on_so_few_blocks_is_not_tried():
    subject, cut = about(Counts), (drop(1),)
    subject.model.least = 4
    found = with_trial(subject, measured(cut), cut, "delayer export S")
    assert found.measured[0].onnx is None
    assert "does not run on one block of each kind" in found.onnx_note and "delayer export S tries it" in found.onnx_note
