"""A search never dies of one cut, takes no more than was asked, and believes no damaged line of its journal."""

import json
import math

import pytest
import torch
from tiny import Block, Digits
from torch import nn

from delayer.edits.drop_span import DropSpan
from delayer.edits.replace_span import ReplaceSpan
from delayer.errors import BudgetError, ModelError, StudyError
from delayer.families import chain_of
from delayer.report.measured_tables import candidates_table
from delayer.search.budget import Budget
from delayer.search.choose import choose
from delayer.search.deepest import deepest
from delayer.search.judging import Failure, Measuring, damage_of, drop_of, key_of, takes
from delayer.search.planner import plan_spans
from delayer.search.predicting import predicted_damage
from delayer.search.ties import noise_of
from delayer.stages import PlanOptions, open_work, plan_stage
from delayer.stages.journal import Journal
from delayer.study import Grade, Scan, SpanDamage, as_lines
from delayer.tasks import TaskOptions

pytest.importorskip("sklearn")

FEW = TaskOptions(num_fit=80, num_validation=60, num_test=20)


class Leaning:
    """Breaks in its own way where the block before it did not run."""

    def lean_on(self, before: nn.Module, how):
        self.ran, self.how = [False], how
        before.register_forward_hook(self.note)
        return self

    def note(self, module, args, output):
        self.ran[0] = True

    def forward(self, x):
        ran, self.ran[0] = self.ran[0], False
        # The two samples with which blocks are tried when they are found show nothing; those would stay otherwise.
        return super().forward(x) if ran or len(x) <= 2 else self.how(x)


class LeaningBlock(Leaning, Block):
    pass


class LeaningHead(Leaning, nn.Linear):
    pass


def stumbles(x):
    raise RuntimeError("the cache of the block before is missing\nand so on")


def overflows(x):
    raise torch.OutOfMemoryError("CUDA out of memory")


def gives_nan(x):
    return x * math.nan


def lively(model: Digits) -> Digits:
    with torch.no_grad():
        for block in model.blocks:
            block.outer.weight.mul_(2)
    return model


def fragile() -> nn.Module:
    """Block 2 leans on block 1, block 4 on block 3, block 0 on nothing."""
    torch.manual_seed(0)
    model = Digits()
    model.blocks[2], model.blocks[4] = (
        LeaningBlock(24).lean_on(model.blocks[before], how) for before, how in ((1, stumbles), (3, gives_nan))
    )
    return lively(model)


def hopeless() -> nn.Module:
    """Each block leans on the one before, and the head on the last."""
    torch.manual_seed(0)
    model = Digits()
    for i in range(1, 6):
        model.blocks[i] = LeaningBlock(24).lean_on(model.blocks[i - 1], overflows)
    model.head = LeaningHead(24, 10).lean_on(model.blocks[5], overflows)
    return lively(model)


def idle() -> nn.Module:
    """Blocks 1 to 5 add nothing."""
    torch.manual_seed(0)
    model = lively(Digits())
    with torch.no_grad():
        for block in model.blocks[1:]:
            block.outer.weight.zero_()
            block.outer.bias.zero_()
    return model


def hushed() -> nn.Module:
    """Block 4 adds nothing, and a head that says next to nothing: no single cut moves a divergence that a forward pass tells."""
    torch.manual_seed(0)
    model = lively(Digits())
    with torch.no_grad():
        model.blocks[4].outer.weight.zero_()
        model.blocks[4].outer.bias.zero_()
        model.head.weight.mul_(1e-7)
    return model


@pytest.fixture
def opened(tmp_path):
    return lambda name: open_work(f"test_judging:{name}", ["digits"], out=tmp_path / name, task_options=FEW)


# -- ties --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "num_blocks"), [("blocks=1", 1), ("blocks=3", 3), ("params=20%", 2)])
def test_of_five_identity_blocks_no_more_go_than_was_asked_and_for_nothing(opened, asked, num_blocks):
    work = opened("idle")
    plan = plan_stage(work, PlanOptions(remove=asked, effort=6, try_onnx=False))
    assert all(edit.edit == "drop_span" for edit in plan.edits)
    assert sum(map(len, (span for edit in plan.edits for span in edit.spans))) == num_blocks
    assert 0 not in {block for edit in plan.edits for block in edit.gone}
    chosen = [row for row in work.study.read("candidates").measured if row.chosen]
    assert len(chosen) == 1 and chosen[0].kl < 1e-8


@pytest.mark.parametrize("asked", [{"remove": "blocks=1"}, {"max_drop": 0.0}])
def test_of_cuts_that_no_forward_pass_tells_apart_the_one_that_changes_least_goes_first(opened, asked):
    work = opened("hushed")
    found = choose(work, PlanOptions(**asked, effort=0))
    damages = [row.kl for row in found.candidates.measured if row.kl is not None]
    assert max(damages) < 1e-8  # all tie
    assert 4 in {block for edit in found.plan.edits for block in edit.gone}
    if "remove" in asked:
        assert found.plan.edits == (DropSpan(start=4, stop=5),)


def test_a_span_by_hand_that_adds_nothing_is_dropped_not_mapped(opened):
    [edit] = plan_stage(opened("idle"), PlanOptions(span=("2:4",), try_onnx=False)).edits
    assert edit == DropSpan(start=2, stop=4)


def test_equally_good_cuts_are_ordered_by_what_they_take_and_put(opened):
    chain = opened("idle").chain
    one, map_ = DropSpan(start=1, stop=2), ReplaceSpan(start=1, stop=2)
    thin, two = ReplaceSpan(start=1, stop=2, operator="diagonal"), DropSpan(start=1, stop=3)
    for unit in ("blocks", "params"):
        cuts = [(two,), (map_,), (thin,), (one,), (DropSpan(start=3, stop=4),)]
        assert sorted(cuts, key=lambda cut: takes(chain, cut, unit)) == [cuts[3], cuts[4], cuts[2], cuts[1], cuts[0]]


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_cut_that_breaks_the_network_counts_as_infinitely_bad_with_its_reason(opened):
    work = opened("fragile")
    plan = plan_stage(work, PlanOptions(remove="blocks=2", effort=8, try_onnx=False))
    assert not {1, 3} & {block for edit in plan.edits for block in edit.gone}
    found = work.study.read("candidates")
    failed = {edit.spans[0]: row.failed for row in found.measured if row.failed and len(row.edits) == 1 for edit in row.edits}
    assert failed[1, 2] == "RuntimeError: the cache of the block before is missing"
    assert "NaN or infinity" in failed[3, 4]
    assert [bool(row.failed) for row in found.measured] == sorted(bool(row.failed) for row in found.measured)
    assert all((row.grade is None and row.kl is None) == bool(row.failed) for row in found.measured)
    table = candidates_table(found)
    assert table.head[-1] == "failed" and any("the cache of the block before" in str(row[-1]) for row in table.rows)
    assert any("could not be judged and count as infinitely bad" in note for note in work.notes)


@pytest.mark.parametrize("options", [PlanOptions(remove="blocks=1"), PlanOptions(max_drop=50.0), PlanOptions(span=("2",))])
def test_where_every_cut_fails_one_sentence_gives_the_first_reason(opened, options):
    said = r"None of the \d+ cuts that were tried could be judged; the first \(.*\) failed with OutOfMemoryError: CUDA out of"
    with pytest.raises(ModelError, match=said):
        plan_stage(opened("hopeless"), options)


def test_the_deepest_cut_goes_round_what_fails(opened):
    plan = plan_stage(opened("fragile"), PlanOptions(max_drop=80.0, effort=4, try_onnx=False))
    assert len(plan.edits) > 0


def grade(kl: float) -> Grade:
    return Grade(name="agreement", unit="%", value=100 - kl, higher_is_better=True, kl=kl, split="validation", num_samples=9)


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), torch.OutOfMemoryError("full"), AssertionError(), None])
def test_whatever_a_cut_raises_is_its_own_failure(error):
    heard = []

    def judge(cut):
        if error is None:
            return grade(math.nan)
        raise error

    measure, cut = Measuring(judge, on_measured=lambda *new: heard.append(new)), (DropSpan(start=0, stop=1),)
    found = measure(cut)
    assert isinstance(found, Failure) and found.reason and not heard and measure.failed == {cut: found}
    assert damage_of(found) == drop_of(grade(0.0), found) == math.inf


def test_an_interruption_is_no_failure():
    def judge(cut):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Measuring(judge)((DropSpan(start=0, stop=1),))


def row(start: int, stop: int, operator: str, residual: float) -> SpanDamage:
    return SpanDamage(
        start=start,
        stop=stop,
        operator=operator,
        ridge=None,
        residual=residual,
        residual_fit=residual,
        params_saved=100 * (stop - start),
        macs_saved=None,
        blocks_saved=stop - start,
    )


def test_what_failed_alone_is_offered_alone_no_more_but_longer_spans_are():
    table = Scan(
        rows="each",
        num_rows_fit=9,
        num_rows_heldout=9,
        spans=(row(0, 1, "drop", 0.1), row(1, 2, "drop", 0.2), row(0, 2, "drop", 0.3)),
    )
    assert predicted_damage(table, {(0, "drop"): 0.5, (1, "drop"): 0.25}) == pytest.approx([0.5, 0.25, 0.75])
    assert predicted_damage(table, {(0, "drop"): math.inf, (1, "drop"): 0.25}) == pytest.approx([math.inf, 0.25, 0.5])
    untold = predicted_damage(table, {(0, "drop"): 3e-9, (1, "drop"): 0.0})  # in the order of what they miss, below all rounding
    assert 0 < untold[0] < untold[1] < untold[2] < noise_of(0.0)


def test_without_dropping_blocks_are_priced_by_the_first_operator():
    table = Scan(
        rows="each",
        num_rows_fit=9,
        num_rows_heldout=9,
        spans=(row(0, 1, "diagonal", 0.1), row(1, 2, "diagonal", 0.2), row(0, 2, "diagonal", 0.3)),
    )
    assert predicted_damage(table, {(0, "diagonal"): 0.5, (1, "diagonal"): 0.25}) == pytest.approx([0.5, 0.25, 0.75])
    chain = chain_of(nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))), torch.randn(2, 4))
    cut, _ = plan_spans(chain, table, Budget("blocks", 1), Measuring(lambda cut: grade(1.0 - cut[0].start)), totals={})
    assert cut == (ReplaceSpan(start=1, stop=2, operator="diagonal"),)


def test_a_budget_that_only_broken_cuts_could_meet_says_so():
    chain = chain_of(nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))), torch.randn(2, 4))
    table = Scan(rows="each", num_rows_fit=9, num_rows_heldout=9, spans=(row(0, 1, "drop", 0.1), row(1, 2, "drop", 0.2)))

    def judge(cut):
        if cut[0].start == 0:
            raise ValueError("it breaks")
        return grade(0.5)

    with pytest.raises(BudgetError, match="at most 1 blocks can go .* since 1 of its single cuts could not be judged"):
        plan_spans(chain, table, Budget("blocks", 2), Measuring(judge), totals={})
    assert deepest(chain, table, Measuring(judge), original=grade(0.0), max_drop=1.0)[0] == (DropSpan(start=1, stop=2),)
    with pytest.raises(BudgetError, match="the best cut of one block costs 0.50. Allow at least 0.50"):
        deepest(chain, table, Measuring(judge), original=grade(0.0), max_drop=0.1)


# -- the journal -------------------------------------------------------------------------------------------------------


def journal(tmp_path, key: str = "k") -> Journal:
    return Journal(tmp_path / ".measured.jsonl", key)


def key(i: int) -> str:
    return key_of((DropSpan(start=i, stop=i + 1),))


def changed(line: str, **fields) -> str:
    return json.dumps(json.loads(line) | fields)


DAMAGE = {
    "cut short": lambda line: line[:-7],
    "another number": lambda line: line.replace("0.25", "0.26"),
    "another cut": lambda line: line.replace('\\"start\\": 0', '\\"start\\": 3').replace('\\"start\\":0', '\\"start\\":3'),
    "no checksum": lambda line: json.dumps({k: v for k, v in json.loads(line).items() if k != "crc"}),
    "NaN with a checksum": lambda line: as_lines([{**json.loads(line), "grade": grade(math.nan).model_dump()}]).strip(),
    "texts that are none, with a checksum": lambda line: as_lines([{"key": 1, "cut": 2, "grade": 3}]).strip(),
    "an empty object, with a checksum": lambda line: as_lines([{}]).strip(),
    "a grade that is none": lambda line: changed(line, grade=7),
    "NaN": lambda line: line.replace("0.25", "NaN"),
    "a list": lambda line: "[1, 2]",
    "null": lambda line: "null",
    "a huge integer": lambda line: "9" * 5000,
    "deep nesting": lambda line: "[" * 100_000,
    "no text": lambda line: "\udcff\udcfe{",
    "nothing but spaces and braces": lambda line: " {} ",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_line_is_not_believed_and_costs_no_other(tmp_path, case):
    mine = journal(tmp_path)
    for i in range(3):
        mine.append(key(i), grade(0.25 + i))
    whole = mine.read()
    assert whole == {key(i): grade(0.25 + i) for i in range(3)} and mine.damage == ""
    lines = mine.path.read_text().splitlines()
    damaged = DAMAGE[case](lines[0])
    assert damaged != lines[0]
    mine.path.write_bytes("\n".join([damaged, *lines[1:]]).encode(errors="surrogateescape") + b"\n")
    assert mine.read() == {key(i): grade(0.25 + i) for i in (1, 2)}
    assert mine.damage == ".measured.jsonl holds 1 line that is damaged; what was told there is measured anew."


def test_a_line_behind_one_that_was_cut_short_begins_anew(tmp_path):
    mine = journal(tmp_path)
    mine.append(key(0), grade(0.5))
    mine.append(key(1), grade(1.5))
    mine.path.write_bytes(mine.path.read_bytes()[:-20])
    mine.append(key(2), grade(2.5))
    assert mine.read() == {key(0): grade(0.5), key(2): grade(2.5)} and mine.damaged == 1


def test_lines_of_another_search_are_left_alone(tmp_path):
    journal(tmp_path, "a").append(key(0), grade(0.5))
    journal(tmp_path, "b").append(key(0), grade(0.75))
    assert journal(tmp_path, "a").read() == {key(0): grade(0.5)} and journal(tmp_path, "c").read() == {}


def test_a_full_disk_is_one_sentence(tmp_path):
    mine = journal(tmp_path)
    mine.path.symlink_to("/dev/full")
    with pytest.raises(StudyError, match="could not be written .No space left on device.; what was measured before is kept"):
        mine.append(key(0), grade(0.5))
    mine.path.unlink()
    mine.path.mkdir()
    with pytest.raises(StudyError, match="cannot be read|is no ordinary file"):
        mine.read()


def test_a_damaged_journal_changes_no_plan_and_is_told(opened, tmp_path):
    options = PlanOptions(remove="blocks=1", effort=4, try_onnx=False)
    first = plan_stage(opened("idle"), options)
    path = tmp_path / "idle" / ".measured.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"kl": ', b'"kl": 9')[:-30])
    for stale in ("plan.json", ".stages.json"):
        (tmp_path / "idle" / stale).unlink(missing_ok=True)
    work = opened("idle")
    assert plan_stage(work, options) == first
    assert any("damaged" in warning for warning in work.warnings)
