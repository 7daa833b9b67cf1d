"""Regression goes the whole road: searched by relative error, fine-tuned by squared error, said in every table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import delayer
from delayer.cli.tables import show
from delayer.errors import DataError
from delayer.stages import CheckOptions, PlanOptions
from delayer.tasks import TaskOptions, evaluate, predictions, task_of
from delayer.tasks.splits import Batch
from delayer.tuning import TuneOptions, tune_
from delayer.tuning.distillation import distance
from delayer.tuning.readout import linear_readout
from tests.tiny import regression

QUICK = dict(plan_options=PlanOptions(remove="blocks=1", effort=3), check_options=CheckOptions(onnx=False, seconds=0.1))


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)


def arrays(path, labels: bool):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(160, 6)).astype("float32")
    with torch.no_grad():
        y = regression()(torch.from_numpy(x)).numpy() + generator.normal(size=(160, 2)).astype("float32") / 10
    np.savez(path, x=x, **({"y": y} if labels else {}))
    return f"npz:{path}"


@pytest.mark.parametrize("labels", [True, False])
def test_the_whole_road(tmp_path, capsys, labels):
    pytest.importorskip("plotly")
    options = TaskOptions(kind=None if labels else "regression")
    results = delayer.run(
        "tests.tiny:regression", arrays(tmp_path / "a.npz", labels), out=tmp_path / "study", task_options=options, **QUICK
    )
    before, after = results.original.grade, results.cut.grade
    assert results.edits[0].spans == ((3, 4),)  # the planted block is the first to go
    assert before.name == after.name == ("R²" if labels else "relative error") and before.unit == "%"
    assert after.error == pytest.approx(0, abs=1e-5) and after.correlation == pytest.approx(1) and after.kl is None
    assert f"{before.name} " in results.headline and "accuracy" not in results.headline and "agreement" not in results.headline
    assert before.value > 90 if labels else before.value == 0
    assert any("graded as regression" in note for note in results.notes) == labels  # else it was asked for
    candidates = delayer.study.Study(tmp_path / "study").read("candidates")
    errors = [one.error for one in candidates.measured]
    assert errors == sorted(errors) and errors[0] < 1e-5 < errors[-1]
    assert all(one.kl is None and one.agreement is None for one in candidates.measured)
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Distance from the original" in page and "relative error" in page and "same top-1" not in page
    show("check", results)
    said = capsys.readouterr().out
    assert "distance from the original" in said and "nats" not in said


def test_a_drop_that_is_allowed_is_in_points(tmp_path):
    with pytest.raises(delayer.DelayerError, match="No block can go within --max-drop 0.5: the best cut of one block costs"):
        model = "tests.test_regression:without_a_planted_block"
        delayer.run(
            model,
            arrays(tmp_path / "a.npz", False),
            out=tmp_path / "study",
            task_options=TaskOptions(kind="regression"),
            plan_options=PlanOptions(max_drop=0.5, effort=2),
            check_options=QUICK["check_options"],
        )


def without_a_planted_block() -> nn.Module:
    model = regression()
    model.blocks[3].load_state_dict(model.blocks[2].state_dict())
    return model


def test_the_command_line_takes_the_kind_and_says_what_it_does(tmp_path, monkeypatch, capsys):
    from delayer import cli

    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["delayer", "plan", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    code, said = command("--help")
    assert "--kind" in said and "seq2seq or regression" in said
    words = ("tests.tiny:regression", "--data", arrays(tmp_path / "a.npz", False), "--out", str(tmp_path / "s"))
    code, said = command(*words, "--max-drop", "1", "--kind", "regresion")
    assert code == 2 and "--kind 'regresion' does not do" in said and "'regression'" in said


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 2, 2), (1,)])
def test_the_loss_is_each_outputs_squared_error_over_how_much_it_varies(shape):
    torch.manual_seed(0)
    output, taught, labels = (torch.randn(9, *shape) for _ in range(3))
    axis, weights = (1 if len(shape) == 3 else len(shape)), {"teacher_weight": 0.7, "label_weight": 0.2}

    def literal(aim, scale_of):
        shares = [((output.select(axis, k) - y) ** 2).mean() / scale_of(y) for k, y in enumerate(aim.unbind(axis))]
        return sum(shares).item() / len(shares)

    def varies(y):
        return (y - y.mean(0)).square().mean()

    found = distance(output, taught, Batch(torch.zeros(9, 1), labels, 0), "regression", **weights).item()
    assert found == pytest.approx(0.7 * literal(taught, varies) + 0.2 * literal(labels, varies), rel=1e-4)
    other_unit = Batch(torch.zeros(9, 1), 1e-3 * labels, 0)
    assert distance(1e-3 * output, 1e-3 * taught, other_unit, "regression", **weights).item() == pytest.approx(found, rel=1e-3)
    output, taught, labels = output[:2], taught[:2], labels[:2]  # too few to say how much they vary
    few = distance(output, None, Batch(torch.zeros(2, 1), labels.squeeze(1), 0), "regression")
    assert few.item() == pytest.approx(literal(labels, lambda y: y.square().mean()), rel=1e-4)


def test_fine_tuning_comes_closer_to_the_teacher():
    teacher, model = regression(), regression()
    torch.manual_seed(1)
    model.blocks[1].outer.weight.data += 0.3 * torch.randn_like(model.blocks[1].outer.weight)
    x = torch.randn(400, 6)
    task = task_of(list(x[:200].split(25)), list(x[200:300].split(25)), list(x[300:].split(25)), kind="regression")
    reference = predictions(teacher, task.batches("test"))
    before = evaluate(model, task, "test", reference=reference)
    report = tune_(model, task, teacher=teacher, options=TuneOptions(epochs=4, learning_rate=3e-3))
    after = evaluate(model, task, "test", reference=reference)
    assert after.error < before.error / 2 and "relative error" in report.note


def test_a_new_head_of_numbers_is_the_least_squares_one():
    model, x = regression(), torch.randn(300, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        targets = torch.stack([model(x)[:, 0] / 7 + 2, x[:, 0]], 1)
    given = [list(zip(x[a:b].split(20), targets[a:b].split(20), strict=True)) for a, b in ((0, 200), (200, 240), (240, 300))]
    found = linear_readout(model, task_of(*given, kind="regression"))
    caught = []
    handle = model.height.register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    with torch.no_grad():
        model(x)
    handle.remove()
    features = torch.cat([caught[0], torch.ones(300, 1)], 1).double().numpy()
    literal = np.linalg.lstsq(features[:200], targets[:200].double().numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.head(caught[0]).numpy(), features @ literal, atol=2e-3)
    errors = ((features[240:] @ literal - targets[240:].numpy()) ** 2).sum(0)
    spread = ((targets[240:] - targets[240:].mean(0)) ** 2).sum(0).numpy()
    assert found.test.name == "R² of a new head" and found.classes == () and found.replaces == "height"
    assert found.test.value == pytest.approx(100 * (1 - (errors / spread).mean()), abs=0.1)
    with pytest.raises(DataError, match="learns from labels, which the fit split"):
        linear_readout(model, task_of([x[:20]], [x[:20]], [x[:20]], kind="regression"))
