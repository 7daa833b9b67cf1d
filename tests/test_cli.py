"""The command line as a user meets it: the main job, clear errors, and a study folder that survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import delayer
from delayer import cli
from delayer.network.hashing import model_hash

ROOT = Path(__file__).parent.parent
QUICK = ["--num-fit", "80", "--num-validation", "60", "--num-test", "60", "--effort", "3", "--seconds", "0.1", "--no-onnx"]
NETWORK = "tests.tiny:network"

pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line here; gives its exit code, standard output and standard error."""

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["delayer", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study folder after a command, made when it is first asked for; each test has a copy of its own."""
    first: dict[tuple[str, ...], Path] = {}

    def get(to: Path, *words: str) -> Path:
        if words not in first:
            first[words] = tmp_path_factory.mktemp("made") / "s"
            before, sys.argv = (
                sys.argv,
                ["delayer", words[0], NETWORK, "--data", "digits", *words[1:], "--out", str(first[words])],
            )
            try:
                cli.main()
            finally:
                sys.argv = before
        return Path(shutil.copytree(first[words], to))

    return get


BUDGET, BY_HAND, SCAN = ("run", "--remove", "blocks=1", *QUICK), ("run", "--span", "2:3", *QUICK), ("scan", *QUICK[:6])


def elsewhere(*words, first: str = "") -> fresh.Process:
    """The command line in a process of its own, which runs a piece of code before."""
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    begin = ["-c", f"{first}\nfrom delayer import cli\ncli.main()"] if first else ["-m", "delayer.cli"]
    return fresh.Process([sys.executable, *begin, *map(str, words)], cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})


def test_the_main_job(command, tmp_path):
    """The planted identity block is the first to go; the result reloads in a fresh process; the report is there."""
    out = tmp_path / "study"
    code, said, _ = command("run", NETWORK, "--data", "digits", "--remove", "blocks=1", "--out", out, *QUICK)
    assert code == 0 and "reload proven" in said.replace("\n", " ")
    results = json.loads((out / "results.json").read_text())
    assert results["edits"] == [{"edit": "drop_span", "label": "drop 2:3", "spans": [[2, 3]]}] or results["edits"][0][
        "spans"
    ] == [[2, 3]]
    assert results["cut"]["grade"]["agreement"] == 100
    assert results["proofs"][0]["passed"] and results["cut"]["params"] < results["original"]["params"]
    assert (out / "report.html").stat().st_size > 10_000
    small = delayer.load(str(out / "model"))
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(small(x), delayer.load(NETWORK)(x), rtol=1e-4, atol=1e-4)


def test_stage_by_stage_gives_the_same_plan(command, tmp_path):
    data = QUICK[:6]
    a, b = tmp_path / "a", tmp_path / "b"
    assert command("run", NETWORK, "--data", "digits", "--remove", "blocks=2", "--out", a, *QUICK)[0] == 0
    assert command("score", NETWORK, "--data", "digits", "--out", b, *data)[0] == 0
    assert command("scan", b)[0] == 0
    assert command("plan", b, "--remove", "blocks=2", "--effort", "3", "--no-try-onnx")[0] == 0
    assert command("cut", b)[0] == 0
    assert command("check", b, "--seconds", "0.1", "--no-onnx")[0] == 0
    assert command("report", b)[0] == 0
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (a, b)]
    assert plans[0] == plans[1]


def test_json_is_all_that_standard_output_holds(command, tmp_path):
    code, said, _ = command("score", NETWORK, "--data", "digits", "--out", tmp_path / "s", "--json", *QUICK[:6])
    assert code == 0 and {s["name"] for s in json.loads(said)["scores"]} >= {"cka", "block_redundancy"}


def test_quiet_is_quiet(command, tmp_path):
    code, said, err = command("run", NETWORK, "--data", "digits", "--span", "2:3", "--out", tmp_path / "s", "--quiet", *QUICK)
    assert code == 0 and err == ""


def test_scores_on_two_data_sets_are_correlated(command, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=rng.normal(size=(300, 1, 8, 8)).astype("float32"))
    code, said, _ = command(
        "score", NETWORK, "--data", "digits", "--data", f"npz:{tmp_path}/noise.npz", "--out", tmp_path / "s", "--json", *QUICK[:6]
    )
    found = json.loads(said)["correlations"]
    assert code == 0 and any(row["metric"] == "Linear CKA" and -1 <= row["pearson"] <= 1 for row in found)


def test_spans_by_hand_and_rba(command, tmp_path):
    out = tmp_path / "s"
    code, _, _ = command("run", NETWORK, "--data", "digits", "--span", "1:3", "--method", "rba", "--out", out, *QUICK)
    plan = json.loads((out / "plan.json").read_text())
    assert code == 0 and plan["edits"][0]["operator"] == "linear" and plan["refit"] == "independent"
    assert "bias" not in "".join(delayer.load(str(out / "model")).blocks[1].state_dict())


@pytest.mark.parametrize("budget, key", [pytest.param("params=20%", "params", marks=pytest.mark.slow), ("macs=20%", "macs")])
def test_a_budget_in_shares_is_met(command, tmp_path, budget, key):
    out = tmp_path / "s"
    assert command("run", NETWORK, "--data", "digits", "--remove", budget, "--out", out, *QUICK)[0] == 0
    results = json.loads((out / "results.json").read_text())
    assert results["cut"][key] <= 0.8 * results["original"][key]


def test_max_drop_is_kept_on_validation(command, tmp_path):
    out = tmp_path / "s"
    code, _, _ = command("run", NETWORK, "--data", "digits", "--no-labels", "--max-drop", "10", "--out", out, *QUICK)
    assert code == 0
    found = json.loads((out / "candidates.json").read_text())
    chosen = [c for c in found["measured"] if c["chosen"]]
    assert chosen and all(c["grade"] >= 90 for c in chosen)


def test_several_networks_in_one_table_whatever_their_depths(command, tmp_path):
    """The second is named, the third is a study of other options; the most redundant comes first."""
    data = ["--data", "digits", "--num-fit", "600"]
    assert command("score", "tests.tiny:two_widths", *data, "--tau", "0.1", "--out", tmp_path / "other")[0] == 0
    words = [
        "score",
        NETWORK,
        *data,
        "--with",
        "tests.tiny:network",
        "--with",
        tmp_path / "other",
        "--tau",
        "0.9",
        "--beta",
        "50",
        "--out",
        tmp_path / "s",
    ]
    code, said, _ = command(*words, "--json")
    found = json.loads(said)
    rows = [dict(zip(one["labels"], one["values"], strict=True)) | {"model": one["model"]} for one in found["networks"]]
    assert code == 0 and {row["layers"] for row in rows} == {6, 7}
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    assert all(row["tau"] == 0.9 and row["beta"] == 50 and row["low"] <= row["share"] <= row["high"] for row in rows)
    names = [row["model"] for row in rows]
    weights = model_hash(delayer.load(NETWORK))[:8]
    assert set(names) == {NETWORK, f"{NETWORK} (weights {weights})", "tests.tiny:two_widths"}
    assert not any(one["shape"] == "network" for one in found["scores"])  # the ranking is this network's alone
    code, said, _ = command(*words)
    assert code == 0 and "MSRS" in said and "share" in said and "differ in kind" in said.replace("\n", " ")
    assert "two_widths" in (tmp_path / "s" / "report.html").read_text()


def test_options_of_a_score_are_kept_and_pool_is_recorded(command, tmp_path):
    out = tmp_path / "s"
    assert command("score", NETWORK, "--data", "digits", "--tau", "0.6", "--pool", "first", "--out", out, *QUICK[:6])[0] == 0
    scores = json.loads((out / "scores.json").read_text())
    assert {s["name"]: s["rows"] for s in (*scores["scores"], *scores["networks"])}["msrs"] == "first"
    assert command("plan", out, "--method", "redtest", "--remove", "blocks=1", "--no-try-onnx")[0] == 0
    assert json.loads((out / "scores.json").read_text()) == scores  # not scored again
    for option, value in (("--tau", "2"), ("--beta", "0"), ("--pool", "median")):
        code, _, err = command("score", NETWORK, "--data", "digits", option, value, "--out", out, *QUICK[:6])
        assert code == 2 and option.strip("-") in err, err


def test_redtest_drops_the_planted_block_and_recovers_by_its_recipe(command, tmp_path):
    out = tmp_path / "s"
    words = ["run", NETWORK, "--data", "digits", "--method", "redtest", "--out", out, *QUICK]
    code, _, err = command(*words, "--remove", "blocks=1")
    plan = json.loads((out / "plan.json").read_text())
    assert code == 0 and [(e["edit"], e["start"], e["stop"]) for e in plan["edits"]] == [("drop_span", 2, 3)]
    assert "RedTest reads Adjacent similarity on 2,560 samples; here it is read on 80" in err
    code, said, _ = command(
        "tune",
        out,
        "--optimizer",
        "sgd",
        "--learning-rate",
        "0.01",
        "--momentum",
        "0.9",
        "--weight-decay",
        "0.005",
        "--epochs",
        "3",
        "--milestones",
        "1",
        "--milestones",
        "2",
        "--warmup",
        "0",
        "--clip",
        "inf",
        "--teacher-weight",
        "0",
        "--label-weight",
        "1",
        "--update-norms",
    )
    assert code == 0 and ("of 3 was the best" in said or "No epoch was better" in said)
    by_hand = ["run", NETWORK, "--data", "digits", "--method", "redtest", "--span", "3:5", "--out", tmp_path / "h", *QUICK]
    assert command(*by_hand)[0] == 0
    assert json.loads((tmp_path / "h" / "plan.json").read_text())["edits"][0]["edit"] == "drop_span"


def test_tune_and_export(command, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "s"
    assert command("run", NETWORK, "--data", "digits", "--span", "3:5", "--operator", "drop", "--out", out, *QUICK)[0] == 0
    before = delayer.load(str(out / "model")).blocks[0].inner.weight.clone()
    assert command("tune", out, "--epochs", "2", "--learning-rate", "0.001")[0] == 0
    assert not torch.equal(before, delayer.load(str(out / "model")).blocks[0].inner.weight)
    assert command("export", out)[0] == 0 and (out / "model" / "model.onnx").exists()


def test_list_knows_everything(command):
    code, said, _ = command("list")
    assert code == 0 and all(word in said for word in ("cka", "drop_span", "timm ViT", "imagefolder", "low_rank"))


def _weights(path: Path, **changes) -> Path:
    state = delayer.load(NETWORK).state_dict() | changes
    save_file({k: v for k, v in state.items() if v is not None}, str(path))
    return path


def _pickle(path: Path) -> Path:
    torch.save({"a": torch.ones(1)}, path)
    return path


def _truncated(path: Path) -> Path:
    whole = _weights(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _labels(path: Path, labels) -> str:
    np.savez(path, x=np.zeros((40, 8, 8), "uint8"), y=np.asarray(labels))
    return f"npz:{path}"


def _images(folder: Path) -> str:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for k in range(4):
            (folder / name / f"broken{k}.png").write_bytes(b"no image")
    return f"imagefolder:{folder}"


def _nan(path: Path) -> str:
    x = np.zeros((40, 1, 8, 8), "float32")
    x[3, 0, 0, 0] = np.nan
    np.savez(path, x=x)
    return f"npz:{path}"


def _empty(folder: Path) -> str:
    folder.mkdir()
    return f"imagefolder:{folder}"


BAD = {
    "unknown timm model": (lambda p: ["timm:deit_tinny_patch16_224", "--data", "digits"], "Did you mean"),
    "unknown factory": (lambda p: ["tests.tiny:netwrk", "--data", "digits"], "cannot be found"),
    "no module": (lambda p: ["tests.tiny:not_a_module", "--data", "digits"], "torch.nn.Module was expected"),
    "no such model": (lambda p: ["no/such/model", "--data", "digits"], "neither a folder"),
    "weights that do not fit": (
        lambda p: [
            NETWORK,
            "--data",
            "digits",
            "--weights",
            _weights(p / "w.safetensors", **{"head.bias": None, "extra": torch.ones(1), "stem.weight": torch.ones(2, 2)}),
        ],
        "1 missing (head.bias); 1 unknown to the network (extra); 1 of another shape",
    ),
    "pickle": (lambda p: [NETWORK, "--data", "digits", "--weights", _pickle(p / "w.pt")], "is a pickle"),
    "truncated weights": (lambda p: [NETWORK, "--data", "digits", "--weights", _truncated(p / "w.safetensors")], "truncated"),
    "nan weights": (lambda p: ["tests.tiny:with_nan", "--data", "digits"], "blocks.1.inner.weight"),
    "infinite activations": (lambda p: ["tests.tiny:overflowing", "--data", "digits"], "block 3"),
    "nan data": (lambda p: [NETWORK, "--data", _nan(p / "x.npz")], "NaN"),
    "unknown source": (lambda p: [NETWORK, "--data", "imagefoldr:x"], "imagefolder"),
    "no data": (lambda p: [NETWORK], "Which data?"),
    "empty data": (lambda p: [NETWORK, "--data", _empty(p / "none")], "image"),
    "unreadable images": (lambda p: [NETWORK, "--data", _images(p / "bad")], "broken0.png"),
    "labels out of range": (lambda p: [NETWORK, "--data", _labels(p / "y.npz", [17] * 40)], "17"),
    "span across widths": (lambda p: ["tests.tiny:two_widths", "--data", "digits", "--span", "2:6"], "Use 2:4 and 5:6"),
    "no span": (lambda p: [NETWORK, "--data", "digits", "--span", "a:b"], "is not a span"),
    "span past the end": (lambda p: [NETWORK, "--data", "digits", "--span", "4:9"], "6 blocks"),
    "too much": (lambda p: [NETWORK, "--data", "digits", "--remove", "blocks=7"], "at most 6 blocks"),
    "too many parameters": (lambda p: [NETWORK, "--data", "digits", "--remove", "params=99%"], "at most 8"),
    "no budget": (lambda p: [NETWORK, "--data", "digits", "--remove", "three"], "is no budget"),
    "two budgets": (lambda p: [NETWORK, "--data", "digits", "--remove", "blocks=1", "--max-drop", "1"], "exactly one"),
    "bad option": (lambda p: [NETWORK, "--data", "digits", "--remove", "blocks=1", "--share", "2"], "--share"),
    "unknown operator": (lambda p: [NETWORK, "--data", "digits", "--span", "1:2", "--operator", "magic"], "magic"),
    "unknown method": (lambda p: [NETWORK, "--data", "digits", "--span", "1:2", "--method", "magic"], "magic"),
    "redtest in shares": (
        lambda p: [NETWORK, "--data", "digits", "--remove", "params=9%", "--method", "redtest"],
        "RedTest removes a number of blocks",
    ),
    "redtest with a drop": (
        lambda p: [NETWORK, "--data", "digits", "--max-drop", "1", "--method", "redtest"],
        "RedTest states no stopping rule",
    ),
    "redtest takes all": (lambda p: [NETWORK, "--data", "digits", "--remove", "blocks=6", "--method", "redtest"], "6 layers"),
    "no such device": (lambda p: [NETWORK, "--data", "digits", "--span", "1:2", "--device", "quantum"], "--device cpu"),
    "out is a file": (lambda p: [NETWORK, "--data", "digits", "--span", "1:2", "--out", ROOT / "README.md"], "is a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence(command, tmp_path, case):
    make, said = BAD[case]
    words = make(tmp_path)
    if not {"--remove", "--span", "--max-drop"} & set(map(str, words)):
        words += ["--remove", "blocks=1"]
    if "--out" not in words:
        words += ["--out", tmp_path / "study"]
    code, out, err = command("run", *words, *QUICK)
    lines = [line for line in err.splitlines() if line.startswith("delayer: ")]
    assert code == 2 and len(lines) == 1 and said in lines[0], err
    assert "Traceback" not in err and not (tmp_path / "study" / "model").exists()


def test_a_study_stays_usable_after_an_error(command, tmp_path):
    out = tmp_path / "s"
    assert command("run", NETWORK, "--data", "digits", "--remove", "blocks=99", "--out", out, *QUICK)[0] == 2
    assert command("run", NETWORK, "--data", "digits", "--span", "2:3", "--out", out, *QUICK)[0] == 0


@pytest.mark.parametrize("name, code", [("study.json", 2), ("scores.json", 0), ("scan.json", 0)])
def test_a_corrupted_study_file_is_named(command, made, tmp_path, name, code):
    out = made(tmp_path / "s", *SCAN)
    assert command("score", out)[0] == 0
    (out / name).write_text("{ broken")
    found, _, err = command("report", out)
    assert found == code and name in (err if code else (out / "report.html").read_text())


def test_a_plan_for_other_weights_is_refused(command, made, tmp_path):
    out = made(tmp_path / "s", *BY_HAND)
    plan = json.loads((out / "plan.json").read_text()) | {"model_hash": "0123456789abcdef"}
    (tmp_path / "other.json").write_text(json.dumps(plan))
    code, _, err = command("cut", out, "--plan", tmp_path / "other.json")
    assert code == 2 and "0123456789abcdef" in err


def test_an_edited_plan_is_replayed(command, made, tmp_path):
    out = made(tmp_path / "s", *BY_HAND)
    plan = json.loads((out / "plan.json").read_text())
    plan["edits"] = [{"edit": "drop_span", "start": 0, "stop": 2}]
    (tmp_path / "mine.json").write_text(json.dumps(plan))
    assert command("cut", out, "--plan", tmp_path / "mine.json")[0] == 0
    kinds = [type(block).__name__ for block in delayer.load(str(out / "model")).blocks]
    assert kinds == ["StandIn"] * 2 + ["Block"] * 4


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """A limit on the size of files is what the operating system offers for trying this."""
    out = tmp_path / "s"

    small_files = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    )
    run = elsewhere("run", NETWORK, "--data", "digits", "--span", "2:3", "--out", out, *QUICK, first=small_files)
    _, err = run.communicate(timeout=200)
    assert run.returncode == 2 and "could not be written" in err, err
    assert not (out / "model").exists() and not list(out.glob(".model*")) and not list(out.glob(".unfinished-*"))


def test_two_processes_cannot_share_a_study(command, tmp_path):
    out = tmp_path / "s"
    with delayer.study.Study(out).lock():
        other = elsewhere("score", NETWORK, "--data", "digits", "--out", out, *QUICK[:6])
        _, err = other.communicate(timeout=200)
    assert other.returncode == 2 and "Another process works in" in err
    assert command("score", NETWORK, "--data", "digits", "--out", out, *QUICK[:6])[0] == 0


def _until(path: Path, lines: int, process: fresh.Process) -> None:
    """Wait until a file has so many lines."""
    for _ in range(1200):
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError(f"{path} never had {lines} lines")


@pytest.mark.parametrize(
    "kind, code", [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_killed_run_goes_on_where_it_stood(command, tmp_path, tmp_path_factory, kind, code):
    """The plan is the one of an unbroken run, and what was measured before the kill is not measured again."""
    words = ["run", NETWORK, "--data", "digits", "--remove", "blocks=2", *QUICK, "--effort", "30"]
    killed, whole = tmp_path / "killed", tmp_path_factory.getbasetemp() / "unbroken"  # made by the first of the two
    first = elsewhere(*words, "--out", killed)
    _until(killed / ".measured.jsonl", 5, first)
    first.send_signal(kind)
    _, err = first.communicate(timeout=60)
    assert first.returncode == code
    if kind == signal.SIGINT:
        assert "goes on where this one stood" in err
    assert command(*words, "--out", killed)[0] == 0
    assert command(*words, "--out", whole)[0] == 0
    assert (killed / "plan.json").read_text() == (whole / "plan.json").read_text()
    cuts = [json.loads(line)["cut"] for line in (killed / ".measured.jsonl").read_text().splitlines()]
    assert len(cuts) == len(set(cuts))


def test_the_same_command_again_does_nothing_again(command, made, tmp_path):
    out = made(tmp_path / "s", *BUDGET)
    before = (out / "results.json").stat().st_mtime_ns
    assert command("run", NETWORK, "--data", "digits", *BUDGET[1:], "--out", out)[0] == 0
    assert (out / "results.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_processes_make_the_plan_of_one(command, tmp_path):
    words = ["run", NETWORK, "--data", "digits", "--remove", "blocks=2", *QUICK]
    one, two = tmp_path / "one", tmp_path / "two"
    assert command(*words, "--out", one)[0] == 0
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "delayer.cli", *words, "--out", str(two)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (one, two)]
    for plan in plans:
        for edit in plan["edits"]:
            edit.pop("ridge", None)
    assert plans[0] == plans[1]
    scores = [json.loads((folder / "scores.json").read_text())["scores"] for folder in (one, two)]
    for a, b in zip(*scores, strict=True):
        x, y = (
            torch.tensor(
                [[v or 0.0 for v in (row if isinstance(row, list) else [row])] for row in s["values"]], dtype=torch.float64
            )
            for s in (a, b)
        )
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)


def test_out_of_memory_says_what_would_fit(command, monkeypatch):
    def hungry(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(cli.commands.stages, "run_all", hungry)
    code, _, err = command("run", NETWORK, "--data", "digits", "--remove", "blocks=1")
    assert code == 2 and "Half the --batch-size" in err
