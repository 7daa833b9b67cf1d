"""Searches on real data: scored as said, shared by workers, resumed after a kill, and ended with a winner that reloads."""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

import fresh
import pytest
import torch

import delayer
from delayer import nas
from delayer.errors import DataError, NasError
from delayer.nas import NasTaskOptions, ProxyOptions, SearchOptions, SpaceOptions, StrategyOptions
from delayer.nas.data import open_data
from delayer.nas.proxy import assess, augmented, train_
from delayer.nas.redundancy import redundancy
from delayer.nas.storage import at_work
from delayer.report import render_nas
from delayer.study import NasResults, NasTrial, read_record

ROOT = Path(__file__).parent.parent
DATA: list[str] = []
CELLS = SpaceOptions(width=4, cells=1)
STAGES = SpaceOptions(space="depth_width", block="tests.nas_blocks:plain", depths=(1, 2), widths=(4, 8), stages=2)
PROXY = ProxyOptions(epochs=4, augment=False, score_batch_size=32)
TASK = NasTaskOptions(num_fit=200, num_validation=100, num_test=60, batch_size=20)


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory) -> str:
    """Handwritten digits as a file, which a worker opens sooner than the library that brings them."""
    import numpy as np

    arrays = pytest.importorskip("sklearn.datasets").load_digits()
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, x=(arrays.images * 15.9).astype("uint8"), y=arrays.target)
    DATA.append(f"npz:{path}")
    return DATA[0]


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def digits(data):
    return open_data(data, CELLS.open(), TASK)


def search(out, **more):
    pytest.importorskip("optuna")
    given = dict(space=STAGES, proxy=PROXY, task=TASK, options=SearchOptions(trials=5, latency_rounds=1, threads=1)) | more
    return nas.search(DATA[0], out=out, **given)


def told(results) -> list[tuple]:
    """What a search found, without its clocks."""
    return [(t.slot, t.candidate, t.state, t.accuracy, t.msrs, t.params) for t in results.trials]


# What one candidate is told of


def test_a_dead_cell_is_never_trained(digits, monkeypatch):
    monkeypatch.setattr("delayer.nas.proxy.train_", lambda *_, **__: pytest.fail("a dead cell was trained"))
    facts, _ = assess(CELLS.open(), "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", digits, None, PROXY, seed=0)
    assert facts["state"] == "dead" and facts["accuracy"] == 10 and "msrs" not in facts


def test_training_learns_and_is_decided_by_its_seed(digits):
    space, cell = CELLS.open(), "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    found = [assess(space, cell, digits, None, PROXY, seed=seed)[0] for seed in (0, 0, 1)]
    assert found[0]["accuracy"] > 40 and found[0]["accuracy"] == found[1]["accuracy"]
    assert found[0]["msrs"] == found[1]["msrs"] != found[2]["msrs"]


def test_the_rate_falls_to_zero_along_a_cosine(digits):
    """With no momentum and no decay, a step is rate × gradient: a model without influence on its gradient shows it."""

    class Slope(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

        def forward(self, x):
            self.seen.append(self.weight.item())
            # The gradient of this logit under cross-entropy is −1 while all others are infinitely likely.
            return torch.stack([self.weight.expand(len(x)), torch.full((len(x),), 1e4)], 1)

    model, x = Slope(), torch.zeros(40, 1, 2, 2)
    options = ProxyOptions(augment=False, momentum=0, weight_decay=0, learning_rate=0.5)
    train_(model, x, torch.zeros(40, dtype=torch.long), options, epochs=2, batch_size=20, seed=0)
    steps = torch.tensor([*model.seen, model.weight.item()]).diff()
    expected = 0.25 * (1 + torch.cos(torch.pi * torch.arange(4) / 4))
    torch.testing.assert_close(steps, expected, rtol=1e-5, atol=1e-6)


def test_augmented_images_are_shifted_and_mirrored_ones():
    x = torch.arange(1.0, 1 + 3 * 2 * 8 * 8).view(3, 2, 8, 8)
    found = augmented(x, torch.Generator().manual_seed(0))
    for image, one in zip(found, x, strict=True):
        padded = torch.nn.functional.pad(torch.stack([one, one.flip(2)]), (1, 1, 1, 1))
        possible = [padded[m, :, i : i + 8, j : j + 8] for m, i, j in itertools.product((0, 1), range(3), range(3))]
        assert sum(torch.equal(image, p) for p in possible) == 1


def test_redundancy_equals_a_slow_twin(digits):
    torch.manual_seed(0)
    space = CELLS.open()
    model = digits.build(space, "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|none~1|skip_connect~2|").eval()
    batches, layers = digits.task.batches("validation"), space.layers(model)
    score, share = redundancy(model, layers, batches, batch_size=32, max_batches=2)
    x = torch.cat([b.inputs for b in batches])
    scores = []
    for part in (x[:32], x[32:64]):
        features, out = [], part
        for layer in layers:
            out = layer(out)
            features.append(out.detach().mean((2, 3)).double())
        similar = [slow_cka(a, b) for a, b in itertools.combinations(features, 2)]
        scores.append(sum(1 / (1 + torch.exp(torch.tensor(-200 * (s - 0.8)))) for s in similar).item())
    assert score == pytest.approx(sum(scores) / 2, abs=1e-3) and share == pytest.approx(score / 15)


def slow_cka(x, y) -> float:
    def hsic(k, m):
        n, one = len(k), torch.ones(len(k), dtype=k.dtype)
        a, b = (torch.where(torch.eye(n, dtype=torch.bool), 0.0, g) for g in (k, m))
        return ((a @ b).trace() + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ a @ b @ one)) / (
            n * (n - 3)
        )

    k, m = x @ x.T, y @ y.T
    return (hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item()


@pytest.mark.parametrize("num_layers, num_samples", [(1, 40), (3, 3)])
def test_one_layer_or_a_tiny_batch_has_no_redundancy(digits, num_layers, num_samples):
    model = digits.build(CELLS.open(), "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|").eval()
    layers = CELLS.open().layers(model)[:num_layers]
    assert redundancy(model, layers, digits.task.batches("validation").first(num_samples), batch_size=32) == (0, 0)


def test_constant_layers_resemble_nothing(digits):
    space = CELLS.open()
    model = digits.build(space, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|").eval()
    assert redundancy(model, space.layers(model), digits.task.batches("validation"), batch_size=32)[0] < 1e-6


def test_the_front_is_what_nothing_dominates():
    rng = torch.Generator().manual_seed(0)
    values = torch.randint(0, 6, (60, 4), generator=rng).tolist()
    trials = [
        NasTrial(slot=i, candidate=str(i), key="", state="trained", accuracy=a, msrs=b, params=c, latency_ms=d)
        for i, (a, b, c, d) in enumerate(values)
    ]
    trials.append(NasTrial(slot=60, candidate="", key="", state="dead", accuracy=100.0, params=0))
    expected = {
        i
        for i, p in enumerate(values)
        if not any(q != p and q[0] >= p[0] and all(y <= x for x, y in zip(p[1:], q[1:], strict=True)) for q in values)
    }
    assert {t.slot for t in nas.pareto_front(trials)} == expected and 0 < len(expected) < 60


# Whole searches


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """An unbroken search by one worker, with evolution, whose every step depends on all before."""
    folder = tmp_path_factory.mktemp("nas")
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        return folder, search(folder, strategy="evolution", strategy_options=StrategyOptions(population=2, tournament=2))
    finally:
        os.chdir(before)


def test_a_killed_search_goes_on_to_the_result_of_an_unbroken_one(finished, tmp_path):
    folder, whole = finished
    words = [
        "nas",
        "--data",
        DATA[0],
        "--strategy",
        "evolution",
        "--population",
        "2",
        "--tournament",
        "2",
        "--space",
        "depth_width",
        "--block",
        "tests.nas_blocks:plain",
        "--depths",
        "1",
        "--depths",
        "2",
        "--widths",
        "4",
        "--widths",
        "8",
        "--stages",
        "2",
        "--epochs",
        "4",
        "--no-augment",
        "--score-batch-size",
        "32",
        "--num-fit",
        "200",
        "--num-validation",
        "100",
        "--num-test",
        "60",
        "--batch-size",
        "20",
        "--trials",
        "5",
        "--out",
        tmp_path,
        "--device",
        "cpu",
        "--latency-rounds",
        "1",
        "--threads",
        "1",
    ]
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    process = fresh.Process([sys.executable, "-m", "delayer.cli", *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})
    until = time.monotonic() + 120
    while not (tmp_path / "trials" / "1.safetensors").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "nas.json").exists(), "it was over before it was killed"
    with at_work(tmp_path, alone=True), (tmp_path / "trials.journal").open("a") as file:
        file.write('{"op_code": 5, "half a li')  # as a crash of the machine would leave it
    resumed = search(tmp_path, strategy="evolution", strategy_options=StrategyOptions(population=2, tournament=2))
    assert told(resumed) == told(whole) and resumed.winner == whole.winner and resumed.grade == whole.grade
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(nas.load_winner(tmp_path)(x), nas.load_winner(folder)(x))


def test_more_trials_may_be_asked_for_later(finished):
    folder, whole = finished
    again = dict(strategy="evolution", strategy_options=StrategyOptions(population=2, tournament=2))
    more = search(folder, options=SearchOptions(trials=6, latency_rounds=1, threads=1), **again)
    assert told(more)[:5] == told(whole) and len(more.trials) == 6
    fewer = search(folder, **again)  # nothing is left to train
    assert told(fewer) == told(whole) and fewer.winner == whole.winner


def test_a_folder_of_another_search_is_refused(finished):
    with pytest.raises(NasError, match="holds a search with another strategy, epochs, population, tournament. Go on with the"):
        search(finished[0], proxy=PROXY.model_copy(update={"epochs": 3}))


def test_the_winner_reloads_in_a_fresh_process(finished, tmp_path):
    folder, results = finished
    model = nas.load_winner(folder / "winner")
    winner = results.trials[results.winner]
    assert delayer.num_params(model) == winner.params and not model.training
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    code = (
        "import sys, torch; from delayer.nas import load_winner; torch.set_num_threads(1)\n"
        "x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "print(load_winner(sys.argv[1], **eval(sys.argv[2]))(x).tolist())"
    )
    alone, said = (
        fresh.run([sys.executable, "-c", code, folder, arguments], cwd=ROOT)
        for arguments in ("{}", "{'own': 'tests.nas_blocks:plain'}")
    )
    assert "'tests.nas_blocks:plain' is a function of somebody's own, and a file's word is no reason" in alone.stderr
    torch.testing.assert_close(torch.tensor(json.loads(said.stdout)), model(x), rtol=0, atol=0)
    config = json.loads((folder / "winner" / "config.json").read_text())
    again = delayer.load("delayer.nas:network", weights=folder / "winner" / "model.safetensors", **config)
    assert torch.equal(again(x), model(x)) and config["candidate"] == winner.candidate


def test_table_front_and_page(finished):
    folder, _ = finished
    results = read_record(folder / "nas.json", NasResults)
    lines = (folder / "trials.csv").read_text().splitlines()
    assert lines[0].startswith("slot,candidate,state,accuracy,msrs") and len(lines) >= 6
    assert len((folder / "front.csv").read_text().splitlines()) == 1 + len(results.front)
    assert all(t.latency_ms > 0 for t in results.trials) and results.grade.split == "test"
    pytest.importorskip("plotly")
    page = render_nas(folder).read_text()
    assert "Pareto front" in page and "redundancy (MSRS)" in page and results.trials[results.winner].candidate in page
    from plotly.offline import get_plotlyjs

    assert "://" not in page.replace(get_plotlyjs(), "")


def test_no_winner_no_load(tmp_path):
    with pytest.raises(NasError, match="holds no winner"):
        nas.load_winner(tmp_path)


def test_a_worker_that_dies_has_its_trial_retried_or_failed_and_the_search_goes_on(tmp_path, monkeypatch):
    """Two workers; one width raises, one kills its worker each time, one the first time only."""
    monkeypatch.setenv("DELAYER_TEST_MARK", str(tmp_path / "mark"))
    space = SpaceOptions(space="depth_width", block="tests.nas_blocks:treacherous", depths=(1,), widths=(4, 5, 6, 7), stages=1)
    found = search(
        tmp_path / "out",
        space=space,
        strategy="short_training",
        options=SearchOptions(trials=6, workers=2, latency_rounds=1, threads=1),
    )
    by_name = {trial.candidate: trial for trial in found.trials}
    assert set(by_name) == {"1x4", "1x5", "1x6", "1x7"}
    assert by_name["1x4"].state == "trained" and by_name["1x4"].attempts == 1
    assert by_name["1x5"].state == "failed" and by_name["1x5"].error == "ValueError: five is not allowed"
    assert by_name["1x6"].state == "failed" and "died each time" in by_name["1x6"].error
    assert by_name["1x7"].state == "trained" and by_name["1x7"].attempts == 2
    assert found.num_failed == 2 and any("held no further candidate" in note for note in found.notes)
    assert sum("died (exit code 9) with 1 trial." in note for note in found.notes) == 3


def test_a_search_in_which_nothing_can_be_trained(tmp_path):
    space = SpaceOptions(space="depth_width", block="tests.nas_blocks:treacherous", depths=(1,), widths=(4, 5), stages=2)
    with pytest.raises(NasError, match="None of 1 candidates could be trained: ValueError: five is not allowed"):
        search(tmp_path, space=space, options=SearchOptions(trials=1), task=TASK.model_copy(update={"seed": 1}))


def test_workers_that_cannot_begin_end_the_search_with_their_words(tmp_path, monkeypatch):
    monkeypatch.setenv("DELAYER_TEST_HOME", str(os.getpid()))
    with pytest.raises(NasError, match="Workers die before they begin: ValueError: away from home. What was found so far stays"):
        search(tmp_path, space=SpaceOptions(space="tests.nas_blocks:homely"), options=SearchOptions(trials=3, workers=3))


def test_data_without_labels(tmp_path):
    import numpy as np

    np.savez(tmp_path / "x.npz", x=np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(DataError, match="needs labelled images; .* without labels"):
        open_data(f"npz:{tmp_path}/x.npz", CELLS.open(), TASK)


@pytest.mark.slow
def test_two_ray_workers_share_a_search(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("DELAYER_TEST_MARK", str(tmp_path / "mark"))
    space = SpaceOptions(space="depth_width", block="tests.nas_blocks:treacherous", depths=(1,), widths=(4, 7, 8), stages=1)
    found = search(
        tmp_path / "out",
        space=space,
        strategy="short_training",
        options=SearchOptions(trials=3, workers=2, engine="ray", latency_rounds=1, threads=1),
    )
    assert [trial.state for trial in found.trials] == ["trained"] * 3
    assert {trial.candidate: trial.attempts for trial in found.trials} == {"1x4": 1, "1x7": 2, "1x8": 1}


# The command line


@pytest.fixture
def command(monkeypatch, capsys):
    from delayer import cli

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


def test_the_table_on_the_command_line(command, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(
        "cell,cifar10_val_12,cifar10_test_200,params_m_cifar10\n"
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|,50,60,0.07\n"
    )
    code, said, err = command("nas", "--table", table, "--seeds", 3, "--json", "--quiet", "--out", tmp_path / "out")
    assert code == 0 and err == "" and len(json.loads(said)["replays"]) == 4
    assert json.loads((tmp_path / "out" / "nas_table.json").read_text()) == json.loads(said)
    code, _, err = command("nas", "--table", table, "--validation-column", "accuracy", "--out", tmp_path / "out")
    assert code == 2 and "lacks 1 of the columns that are needed: accuracy (--validation-column)" in err


@pytest.mark.parametrize("words", [["nas"], ["nas", "--data", "digits", "--table", "t.csv"]])
def test_data_or_table(command, words):
    code, _, err = command(*words)
    assert code == 2 and "Give either --data, such as npz:PATH, or --table FILE.csv" in err
