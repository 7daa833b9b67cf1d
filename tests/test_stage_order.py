"""Stages in any order: each gives what it gives in a fresh folder, or refuses in one sentence; kills change nothing.

What lies in model/ is one of four networks here: cut, cut and tuned, shrunk, shrunk and tuned. Which of them a sequence of
stages should leave is worked out by hand below (`after`), and what was left is compared with the one of a fresh folder.
"""

import json
import os
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

import delayer
from delayer import cli, stages
from delayer.cutting import read_plan
from delayer.errors import PlanError
from delayer.progress import Reporter
from delayer.shrinking import ShrinkOptions
from delayer.store import read_artefact
from delayer.study import Study
from delayer.study.files import UNFINISHED
from delayer.study.marks import doubts, read_marks
from delayer.tuning import TuneOptions

pytest.importorskip("sklearn")
ROOT = Path(__file__).parent.parent
NETWORK = "tests.tiny:network"
DATA = ("--data", "digits", "--num-fit", "64", "--num-validation", "48", "--num-test", "48", "--batch-size", "16")
SHRINK = ShrinkOptions(remove=2, a_round=2, tolerance=100)
TUNE = TuneOptions(epochs=2, learning_rate=0.01, teacher_weight=0, label_weight=1, checkpoint_steps=100)
COMMANDS = {
    "score": (),
    "scan": (),
    "plan": ("--remove", "blocks=1", "--effort", "1", "--samples", "24", "--no-try-onnx"),
    "cut": (),
    "tune": ("--epochs", "2", "--learning-rate", "0.01", "--teacher-weight", "0", "--label-weight", "1"),
    "check": ("--seconds", "0.02", "--no-onnx", "--batch-sizes", "1"),
    "export": (),
    "report": (),
    "run": ("--remove", "blocks=1", "--effort", "1", "--samples", "24", "--seconds", "0.02", "--no-onnx", "--batch-sizes", "1"),
}


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


def do(folder: Path, stage: str, *more: str) -> str:
    """Run one stage on a study folder as its command would; gives what is said on an error, "" when it is done.

    Shrinking is run without the check that its command has behind it.
    """
    if stage == "shrink":
        works(folder, stage)
        return ""
    words = [stage, str(folder), *COMMANDS.get(stage, ()), *more]
    before, sys.argv = sys.argv, ["delayer", *words]
    errors, sys.stderr = sys.stderr, open(os.devnull, "w")
    said: list[str] = []
    fail, cli.entry._fail = cli.entry._fail, said.append
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, said
    finally:
        sys.argv, cli.entry._fail = before, fail
        sys.stderr.close()
        sys.stderr = errors
    return "".join(said)


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Path:
    """A study of a network and its data in which nothing has been done yet."""
    folder = tmp_path_factory.mktemp("opened") / "s"
    os.chdir(ROOT)
    assert not do_first(folder)
    for name in ("scores.json", ".stages.json", "report.html"):
        (folder / name).unlink(missing_ok=True)
    return folder


def do_first(folder: Path) -> str:
    before, sys.argv = sys.argv, ["delayer", "score", NETWORK, *DATA, "--out", str(folder), "--quiet"]
    try:
        cli.main()
    except SystemExit as stop:
        return str(stop.code or "")
    finally:
        sys.argv = before
    return ""


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def after(names: tuple[str, ...]) -> str | None:
    """The network that lies in model/ after stages, one after another; None where there is none."""
    plan, network, newer = False, None, False
    for name in names:
        trained = network not in (None, "cut")
        if name == "plan":
            plan, newer = True, newer or (not plan and network is not None)  # the same plan again is no newer one
        elif name == "run" or (name == "cut" and plan):
            plan, network, newer = True, "cut", False
        elif name == "shrink":
            network, newer = "shrunk", False
        elif name in ("tune", "check", "export") and newer and trained:
            pass  # refused: trained weights would be lost
        elif name in ("check", "export") and plan:
            network = network or "cut"
        elif name == "tune" and (network or plan):
            network = f"{(network or 'cut').removesuffix(', tuned')}, tuned"
    return network


FRESH = {
    "cut": ("plan", "cut"),
    "cut, tuned": ("plan", "cut", "tune"),
    "shrunk": ("shrink",),
    "shrunk, tuned": ("shrink", "tune"),
}


@pytest.fixture(scope="module")
def fresh(first, tmp_path_factory):
    """What each of the four networks answers, made in a folder of its own."""
    answers = {}
    for network, (name, *names) in FRESH.items():
        begin, said = first(name)
        folder = copy(begin, tmp_path_factory.mktemp("fresh") / "s")
        assert not said
        for name in names:
            assert not do(folder, name)
        answers[network] = answer(folder)
    for one in answers:
        for other in answers:
            assert one == other or not torch.allclose(answers[one], answers[other], rtol=1e-3, atol=1e-3), (one, other)
    return answers


def answer(folder: Path) -> torch.Tensor | None:
    """What the network in model/ says to a batch; None where there is none."""
    if not (folder / "model").exists():
        return None
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return delayer.load(str(folder / "model"), factory=NETWORK)(x)


def check_truth(folder: Path, names: tuple[str, ...], said: str, fresh) -> None:
    """What lies in the folder is what a fresh folder holds, and nothing in it tells of another network in silence."""
    network, found = after(names), answer(folder)
    if network is None:
        assert found is None
        if names[-1] in ("cut", "tune", "check", "export"):
            assert "There is no plan" in said
        return
    torch.testing.assert_close(found, fresh[network], rtol=1e-4, atol=1e-4, msg=lambda text: f"{names}: {text}")
    study = Study(folder)
    doubted = doubts(study, study.read("study"))
    if study.has("results") and "results" not in doubted:
        edits = [edit.label for edit in study.read("results").edits]
        assert edits == [edit.label for edit in read_plan(folder / "model" / "plan.json").edits], names
    if names[-1] in ("check", "run") and not said:
        assert study.has("results") and "results" not in doubted


@pytest.fixture(scope="module")
def first(opened, tmp_path_factory):
    """A folder after each stage alone, made when it is asked for."""
    made = {}

    def get(name: str) -> tuple[Path, str]:
        if name not in made:
            folder = copy(opened, tmp_path_factory.mktemp("first") / "s")
            made[name] = folder, do(folder, name)
        return made[name]

    return get


QUICK_PAIRS = [
    ("shrink", "check"),
    ("shrink", "tune"),
    ("run", "shrink"),
    ("shrink", "cut"),
    ("run", "tune"),
    ("tune", "check"),
    ("plan", "check"),
    ("scan", "run"),
    ("run", "run"),
    ("shrink", "plan"),
]
STAGES = (*COMMANDS, "shrink")
ALL_PAIRS = [(one, two) for one in STAGES for two in STAGES]


@pytest.mark.parametrize(
    "names", [pytest.param(pair, id="-".join(pair), marks=[] if pair in QUICK_PAIRS else pytest.mark.slow) for pair in ALL_PAIRS]
)
def test_pairs_of_stages(names, first, fresh, tmp_path):
    begin, _ = first(names[0])
    folder = copy(begin, tmp_path / "s")
    check_truth(folder, names, do(folder, names[1]), fresh)


TRIPLES = [
    ("shrink", "plan", "check"),
    ("shrink", "plan", "cut"),
    ("run", "shrink", "check"),
    ("run", "tune", "check"),
    ("run", "tune", "run"),
    ("shrink", "tune", "check"),
    ("shrink", "tune", "tune"),
    ("run", "shrink", "cut"),
    ("run", "tune", "plan"),
    ("shrink", "tune", "shrink"),
    ("plan", "shrink", "check"),
]


QUICK_TRIPLES = TRIPLES[::2]


@pytest.mark.parametrize(
    "names", [pytest.param(one, id="-".join(one), marks=[] if one in QUICK_TRIPLES else pytest.mark.slow) for one in TRIPLES]
)
def test_triples_of_stages(names, first, fresh, tmp_path):
    folder = copy(first(names[0])[0], tmp_path / "s")
    do(folder, names[1])
    check_truth(folder, names, do(folder, names[2]), fresh)


def test_trained_weights_are_not_given_up_unasked(opened, tmp_path):
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "shrink") and not do(folder, "plan")
    said = do(folder, "check")
    assert "plan.json is newer than the network in" in said and "trained (shrink)" in said and "delayer cut" in said


def test_a_plan_by_hand_leaves_the_scan_alone(opened, tmp_path):
    """`plan --span` judges its spans alone; what was scanned of all stays for the next search."""
    folder, other = copy(opened, tmp_path / "s"), copy(opened, tmp_path / "other")
    assert not do(folder, "scan")
    scanned = (folder / "scan.json").read_bytes()
    by_hand = stages_of(folder, span=("3:4",), samples=24)
    assert (folder / "scan.json").read_bytes() == scanned and by_hand.edits[0].spans[0].start == 3
    assert len(Study(folder).read("spans").spans) < len(Study(folder).read("scan").spans)
    for asked in ("blocks=1", "blocks=2"):
        searched = stages_of(folder, remove=asked, effort=1, samples=24)
        assert searched == stages_of(other, remove=asked, effort=1, samples=24)
    assert not Study(folder).has("spans")


def stages_of(folder: Path, **options):
    work = cli.opening.reopened(folder, Reporter())
    return stages.plan_stage(work, stages.PlanOptions(**options, try_onnx=False))


def test_a_trial_export_is_no_reason_to_plan_again(opened, tmp_path, monkeypatch):
    """What was planned without a trial (run --no-onnx) stands where one is asked for; the trial alone is made up for."""
    pytest.importorskip("onnxscript")
    folder, asked = copy(opened, tmp_path / "s"), {"remove": "blocks=1", "effort": 1, "samples": 24}
    plan = stages_of(folder, **asked)
    assert not Study(folder).read("candidates").onnx_note
    monkeypatch.setattr("delayer.stages.plan.choose", lambda *_: pytest.fail("planned again"))
    work = cli.opening.reopened(folder, Reporter())
    assert stages.plan_stage(work, stages.PlanOptions(**asked)) == plan
    tried = Study(folder).read("candidates")
    assert "delayer export" in tried.onnx_note and any(one.onnx for one in tried.measured if one.chosen)
    assert stages_of(folder, **asked) == plan and Study(folder).read("candidates") == tried


def test_tuning_again_begins_with_the_cut_network(opened, tmp_path):
    """Three epochs after two are the three epochs of a fresh folder, not five."""
    twice, once = copy(opened, tmp_path / "twice"), copy(opened, tmp_path / "once")
    for folder in (twice, once):
        assert not do(folder, "plan") and not do(folder, "cut")
    assert not do(twice, "tune") and not do(twice, "tune", "--epochs", "3") and not do(once, "tune", "--epochs", "3")
    assert torch.equal(answer(twice), answer(once))
    assert (twice / "tune.json").read_text() == (once / "tune.json").read_text()


def test_another_plan_replaces_what_was_shrunk(opened, tmp_path):
    """The report then speaks of what was cut, not of what was shrunk or planned before."""
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "run") and not do(folder, "shrink")
    plan = json.loads((folder / "plan.json").read_text()) | {"edits": [{"edit": "drop_span", "start": 4, "stop": 6}]}
    (tmp_path / "mine.json").write_text(json.dumps(plan))
    assert not do(folder, "cut", "--plan", str(tmp_path / "mine.json")) and not do(folder, "check")
    study = Study(folder)
    results = study.read("results")
    assert results.cut.num_blocks == 4 and [edit.label for edit in results.edits] == ["drop 4:6"]
    assert {"shrink", "candidates"} <= doubts(study, study.read("study")).keys()
    assert "made by another plan" in (folder / "report.html").read_text()


def test_an_edited_plan_is_not_planned_over(opened, tmp_path):
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "run")
    plan = json.loads((folder / "plan.json").read_text()) | {"edits": [{"edit": "drop_span", "start": 4, "stop": 6}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    assert "was edited since it was planned" in do(folder, "run")
    assert not do(folder, "check")
    assert Study(folder).read("results").cut.num_blocks == 4
    assert not do(folder, "plan", "--effort", "2")
    assert json.loads((folder / "plan.edited.json").read_text()) == plan


def test_a_changed_record_is_made_again(opened, tmp_path):
    """A file that somebody wrote into is not taken for the stage's own."""
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "scan")
    before = (folder / "scan.json").read_bytes()
    rows = json.loads(before)
    rows["spans"] = rows["spans"][:3]
    (folder / "scan.json").write_text(json.dumps(rows))
    assert not do(folder, "plan")
    assert (folder / "scan.json").read_bytes() == before


def test_a_folder_without_hashes_is_done_again(opened, tmp_path):
    """As an older version left it."""
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "scan")
    (folder / ".stages.json").write_text(json.dumps({"score": "0123", "scan": "4567"}))
    assert not do(folder, "report") and not do(folder, "scan")
    assert set(read_marks(Study(folder))) == {"scan"}


def test_running_a_study_needs_no_data_named(opened, tmp_path):
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "run")
    study = Study(folder)
    assert study.read("results").cut.num_blocks == 5
    assert not doubts(study, study.read("study"))
    (folder / "results.json").unlink()
    assert not do(folder, "report")
    assert "has not been checked yet" in (folder / "report.html").read_text().replace("\u00a0", " ")


EVENTS = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
    "shutil.copyfile",
    "shutil.copytree",
    "tempfile.mkstemp",
}
"""What changes the disk, beside opening a file to write."""
GONE = 9
"""The exit code of a process that is killed."""


def killed(folder: Path, stage: str, at: int = 0) -> int | None:
    """A stage in a process of its own, which is gone at its n-th change to the disk inside a folder; None where it was.

    Gives how many changes there were where the stage came to its end.
    """
    seen, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        with open(seen) as number:
            counted = number.read()
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert ended == (0 if counted else GONE), f"{stage} failed"
        return int(counted) if counted else None
    os.close(seen)
    changes = 0

    def hook(event, args):
        nonlocal changes
        if event != "open" and event not in EVENTS:
            return
        if event == "open" and not (isinstance(args[1], str) and set(args[1]) & set("wax+")):
            return
        if str(folder) in " ".join(str(arg) for arg in args) and not str(args[0]).endswith(".lock"):
            changes += 1
            if changes == at:
                os._exit(GONE)  # nothing is cleared up

    try:
        sys.addaudithook(hook)
        works(folder, stage)
        os.write(write, str(changes).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def works(folder: Path, stage: str) -> None:
    work = cli.opening.reopened(folder, Reporter())
    with work.study.lock():
        if stage == "cut":
            stages.cut_stage(work)
        elif stage == "tune":
            stages.tune_stage(work, TUNE)
        else:
            stages.shrink_stage(work, SHRINK)


KILLS = [("cut", "plan"), ("tune", "plan cut"), ("shrink", ""), ("shrink", "plan cut"), ("tune", "plan cut tune")]


@pytest.mark.parametrize("every", [25, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stage, needs", KILLS[:3] + [pytest.param(*kill, marks=pytest.mark.slow) for kill in KILLS[3:]])
def test_a_kill_at_any_change_of_the_disk_goes_on_to_the_same_result(stage, needs, every, opened, tmp_path):
    begin = copy(opened, tmp_path / "begin")
    for name in needs.split():
        assert not do(begin, name, *(["--epochs", "3"] if name == "tune" else []))
    whole = copy(begin, tmp_path / "whole")
    number = killed(whole, stage)
    expected = answer(whole)
    assert number > 5
    for at in range(1, number + 1, every):
        folder = copy(begin, tmp_path / f"at-{at}")
        assert killed(folder, stage, at) is None
        works(folder, stage)
        torch.testing.assert_close(answer(folder), expected, rtol=1e-4, atol=1e-4, msg=lambda text, at=at: f"at {at}: {text}")
        left = {path.name for path in folder.iterdir()} ^ {path.name for path in whole.iterdir()}
        assert not left, (at, left)
        shutil.rmtree(folder)


def test_a_plan_that_is_missing_is_named(opened, tmp_path):
    with pytest.raises(PlanError, match="There is no plan"):
        works(copy(opened, tmp_path / "s"), "cut")


@pytest.mark.parametrize(
    "more, named",
    [
        (("--data", "npz:other.npz"), "--data"),
        (("--num-fit", "50"), "--num-fit"),
        (("--seed", "4", "--weights", "w.safetensors"), "--weights, --seed"),
    ],
)
def test_a_study_is_not_opened_with_options_that_it_was_not_made_with(more, named, opened, tmp_path):
    folder = copy(opened, tmp_path / "s")
    assert f"{named} would make it another study" in do(folder, "scan", *more)
    assert not do(folder, "score", "--num-fit", "64", "--data", "digits")


def test_what_cannot_be_begun_again_is_said(first, tmp_path):
    """Fine-tuned twice, and what was before it is gone: shrunk weights cannot be made anew, a cut can."""
    for begin, said in (("shrink", "as it was before it was fine-tuned is no longer in"), ("run", "")):
        folder = copy(first(begin)[0], tmp_path / begin)
        assert not do(folder, "tune")
        shutil.rmtree(folder / ".untuned")
        assert said in do(folder, "tune", "--epochs", "3") and (said or lineage(folder) == ["cut", "tune"])


def lineage(folder: Path) -> list[str]:
    return [made.stage for made in read_artefact(folder / "model").lineage]


def test_a_neighbourhood_of_nothing_and_batches_of_nothing_are_refused(first, tmp_path):
    folder = copy(first("shrink")[0], tmp_path / "s")
    assert "would train nothing" in do(folder, "tune", "--only", "neighbourhood")
    assert "--batch-sizes -1 does not do" in do(folder, "check", "--batch-sizes", "-1")
    assert not Study(folder).has("results")


def test_a_plan_of_other_data_is_said_to_be_one(opened, tmp_path):
    """The test samples of these may be among those that it was chosen on."""
    folder = copy(opened, tmp_path / "s")
    assert not do(folder, "plan")
    plan = json.loads((folder / "plan.json").read_text()) | {"data_hash": "0" * 64}
    (tmp_path / "elsewhere.json").write_text(json.dumps(plan))
    assert not do(folder, "cut", "--plan", str(tmp_path / "elsewhere.json")) and not do(folder, "check")
    assert any("was made on other data" in text for text in Study(folder).read("results").warnings)


def test_shrunk_weights_are_kept_while_they_are_tuned(first, tmp_path):
    """They cannot be made again: tuning twice begins with them twice."""
    twice, once = (copy(first("shrink")[0], tmp_path / name) for name in ("twice", "once"))
    assert not do(twice, "tune") and not do(twice, "tune", "--epochs", "3") and not do(once, "tune", "--epochs", "3")
    assert torch.equal(answer(twice), answer(once)) and lineage(twice) == ["shrink", "tune"]


def test_what_a_killed_writer_left_goes_with_the_next_stage(opened, tmp_path):
    folder = copy(opened, tmp_path / "s")
    left = [folder / f"{UNFINISHED}plan.json.x1", folder / ".shrink" / "a" / f"{UNFINISHED}rounds.jsonl.y2"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    assert not do(folder, "score")
    assert not any(path.exists() for path in left)


def test_merges_are_decided_once(first, tmp_path):
    """The clock decides them, so a run that was killed behind its measuring takes what that found."""
    folder = copy(first("shrink")[0], tmp_path / "s")
    [decided] = folder.glob(".shrink/*/merges.json")
    found = {"path": "blocks.0", "layers": ["inner", "outer"], "note": "a note of that run"}
    decided.write_text(json.dumps({"edits": [], "found": [found]}))
    shutil.rmtree(folder / "model")
    assert not do(folder, "shrink")
    assert [merge.note for merge in Study(folder).read("shrink").merges] == ["a note of that run"]
    assert "fuse" not in {edit.edit for edit in read_plan(folder / "model" / "plan.json").edits}


def test_data_that_changed_behind_its_name_is_other_data(tmp_path, monkeypatch):
    """The same command on a file with other pictures in it scores anew."""
    folder, scored = tmp_path / "s", []
    for seed in (0, 1):
        pictures = np.random.default_rng(seed).integers(0, 255, (60, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "pictures.npz", x=pictures)
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "delayer",
                "score",
                NETWORK,
                "--data",
                f"npz:{tmp_path / 'pictures.npz'}",
                "--num-fit",
                "30",
                "--out",
                str(folder),
                "--quiet",
            ],
        )
        cli.main()
        scored.append((folder / "scores.json").read_text())
    assert scored[0] != scored[1]
