"""No grade is wrong in silence: what a network does is found honestly, and what was assumed is said."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from delayer.errors import DataError
from delayer.observing.one_pass import observe
from delayer.search.judging import damage_of, drop_of
from delayer.tasks import TaskOptions, evaluate, grade_of, open_task, predictions, task_of
from delayer.tasks.kinds import kind_of
from delayer.tasks.randomness import randomness

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


class Shaped(nn.Module):
    """Inputs [n, 6] to outputs of any shape, far from zero."""

    def __init__(self, *shape: int, seed: int = 0, name: str = "last", offset: float = 5.0):
        super().__init__()
        torch.manual_seed(seed)
        self.add_module(name, nn.Linear(6, math.prod(shape) or 1))
        self.shape, self.name, self.offset = shape, name, offset

    def forward(self, x):
        return self.offset + self.get_submodule(self.name)(x).view(len(x), *self.shape)


def against(net: nn.Module, other: nn.Module, kind=None, x=X):
    task = task_of([x[:25], x[25:]], model=net, kind=kind)
    return evaluate(other, task, "fit", reference=predictions(net, task.batches("fit")))


# -- what the outputs stand for


SHAPES = [(), (1,), (5, 2), (3, 4, 4), (2, 40, 40)]


@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_are_graded_by_their_distance_and_never_by_the_largest(shape):
    net, other, near = Shaped(*shape), Shaped(*shape, seed=1), Shaped(*shape)
    near.last.weight.data += 1e-3
    task = task_of([X], model=net)
    assert task.kind == "regression" and "graded as regression" in task.notes[0] and "R²" in task.notes[0]
    itself, close, far = (against(net, one) for one in (net, near, other))
    assert (itself.name, itself.unit, itself.higher_is_better) == ("relative error", "%", False)
    assert (itself.value, itself.error, itself.kl, itself.agreement) == (0, 0, None, None)
    assert itself.correlation == pytest.approx(1)
    assert 0 < close.value < 5 < 50 < far.value and close.correlation > 0.999 > 0.9 > far.correlation
    assert close.interval[0] <= close.value <= close.interval[1]
    assert damage_of(itself) == 0 < damage_of(close) < damage_of(far)
    assert drop_of(itself, far) == pytest.approx(far.value) and drop_of(itself, itself) == 0


@pytest.mark.parametrize("shape", [(1,), (4,), (3, 2)])
def test_relative_error_correlation_and_r2_equal_the_literal_ones(shape):
    net, other = Shaped(*shape), Shaped(*shape, seed=2)
    with torch.no_grad():
        wanted, found = (f(X).double().reshape(60, -1, shape[-1]) for f in (net, other))
    shares, correlations = [], []
    for k in range(shape[-1]):
        y, z = wanted[:, :, k], found[:, :, k]
        shares.append(float((z - y).square().sum() / (y - y.mean(0)).square().sum()))
        a, b = ((t - t.mean(0)).flatten().numpy() for t in (y, z))
        correlations.append(np.corrcoef(a, b)[0, 1])
    grade = against(net, other, "regression")
    assert grade.error == pytest.approx(np.mean(shares) ** 0.5, rel=1e-4) and grade.value == 100 * grade.error
    assert grade.correlation == pytest.approx(np.mean(correlations), rel=1e-4)
    with torch.no_grad():
        targets = net(X)
    labelled = evaluate(other, task_of([(X, targets)], kind="regression"), "fit")
    assert (labelled.name, labelled.unit, labelled.higher_is_better) == ("R²", "%", True)
    assert labelled.value == pytest.approx(100 * (1 - np.mean(shares)), rel=1e-4)
    sklearn = pytest.importorskip("sklearn.metrics")
    if len(shape) == 1:
        with torch.no_grad():
            assert labelled.value == pytest.approx(100 * sklearn.r2_score(targets, other(X)), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_and_the_place_of_numbers_do_not_matter(scale):
    net, other = Shaped(4, offset=0.0), Shaped(4, seed=1, offset=0.0)
    plain = against(net, other, "regression")
    for one in (net, other):
        one.last.weight.data *= scale
        one.last.bias.data *= scale
    grade = against(net, other, "regression")
    assert grade.error == pytest.approx(plain.error, rel=1e-3) and grade.correlation == pytest.approx(plain.correlation, rel=1e-3)


def test_outputs_that_never_change_have_a_defined_distance():
    net, moved = Shaped(2), Shaped(2)
    net.last.weight.data.zero_()
    moved.last.weight.data.zero_()
    net.last.bias.data = torch.tensor([0.0, -5.0])
    moved.last.bias.data = torch.tensor([0.5, -4.0])  # 5 becomes 5.5, and 0 becomes 1
    grade = against(net, moved, "regression")
    assert grade.error == pytest.approx(((0.1**2 + 1**2) / 2) ** 0.5) and grade.correlation is None
    assert against(net, net, "regression").error == 0


class Config:
    def __init__(self, **facts):
        self.__dict__ = facts


def with_config(net: nn.Module, **facts) -> nn.Module:
    net.config = Config(**facts)
    return net


LONG, FLOAT = torch.tensor([0, 1, 0]), torch.tensor([0.3, 1.2, 7.0])
EVIDENCE = [
    (Shaped(1), None, "regression", "one output and there are no labels.*--kind image-classification"),
    (Shaped(), None, "regression", "one output and there are no labels"),
    (Shaped(1), LONG, "image-classification", "labels are 0 and 1.*it is a logit.*--kind regression"),
    (Shaped(1), 30 * LONG, "regression", "one output, and labels run to 30"),
    (Shaped(1), FLOAT, "regression", "labels are no class numbers"),
    (Shaped(4), FLOAT, "regression", "labels are no class numbers"),
    (Shaped(4), LONG, "image-classification", None),
    (Shaped(4), None, "image-classification", "Nothing says whether the network's 4 outputs.*--kind regression"),
    (Shaped(4, name="classifier"), None, "image-classification", None),
    (Shaped(4, name="keypoints"), None, "regression", "4 outputs come from keypoints.*--kind image-classification"),
    (Shaped(4, name="bbox_head"), None, "regression", "come from bbox_head"),
    (with_config(Shaped(4), problem_type="regression"), LONG, "regression", "configuration says so"),
    (with_config(Shaped(4), problem_type="multi_label_classification"), None, "regression", "several of its classes"),
    (with_config(Shaped(4), label2id={"a": 0}), None, "image-classification", None),
    (nn.Sequential(Shaped(4), nn.Softmax(1)), None, "image-classification", None),
    (Shaped(3, 8, 8), None, "regression", "answers 3 × 8 × 8 for each sample"),
]


@pytest.mark.parametrize(("net", "labels", "kind", "said"), EVIDENCE)
def test_the_kind_of_task_follows_from_evidence_and_assumptions_are_said(net, labels, kind, said):
    does = kind_of(net, X[:3], labels)
    assert does.kind == kind
    assert len(does.notes) == (said is not None) and (said is None or re.search(said, does.notes[0]))


def test_ten_outputs_are_numbers_if_that_is_said():
    net, other = Shaped(10), Shaped(10, seed=1)
    net.last.bias.data[3] = other.last.bias.data[3] = 50.0  # the largest output is always the same one
    assert against(net, other).value == 100
    task = task_of([X], model=net)
    assert "--kind regression" in task.notes[0]
    assert "largest output is number 3 for each of 60" in predictions(net, task.batches("fit")).notes[0]
    assert against(net, other, "regression").value > 50


def test_probabilities_are_not_softened_again():
    logits, other = Shaped(4), Shaped(4, seed=1)
    wanted = against(logits, other)
    found = against(nn.Sequential(logits, nn.Softmax(1)), nn.Sequential(other, nn.Softmax(1)))
    assert found.kl == pytest.approx(wanted.kl, rel=1e-4) and found.agreement == wanted.agreement
    one = against(nn.Sequential(logits, nn.LogSoftmax(1)), nn.Sequential(other, nn.LogSoftmax(1)))
    assert one.kl == pytest.approx(wanted.kl, rel=1e-4)


def test_one_probability_is_a_class_from_one_half_on():
    net = Shaped(1, offset=0.0)
    y = (net(X)[:, 0] > 0).long()
    grade = evaluate(nn.Sequential(net, nn.Sigmoid()), task_of([(X, y)]), "fit")
    assert grade.value == 100 == evaluate(net, task_of([(X, y)]), "fit").value
    (note,) = predictions(nn.Sequential(net, nn.Sigmoid()), task_of([(X, y)]).batches("fit")).notes
    assert "lies between 0 and 1 on all samples, so it is read as the probability" in note


def test_answers_of_other_sizes_cannot_be_compared():
    class Map(nn.Module):
        def forward(self, x):
            return x[:, None]

    task = task_of([torch.rand(2, 4, 4), torch.rand(2, 5, 5)], kind="regression")
    with pytest.raises(DataError, match="one batch of the fit split with 16 numbers a sample and another with 25.*--size"):
        predictions(Map(), task.batches("fit"))
    with pytest.raises(DataError, match=r"Labels of the fit split are \[60, 3\].*answers with \[60, 2\].*--no-labels"):
        evaluate(Shaped(2), task_of([(X, torch.rand(60, 3))], kind="regression"), "fit")
    with pytest.raises(DataError, match="no labels, so networks are graded by their relative error against"):
        evaluate(Shaped(2), task_of([X], kind="regression"), "fit")


def test_classes_of_loaders_narrow_every_number_by_name():
    net, y = Shaped(6), torch.arange(60) % 3
    task = task_of([(X, y)], [(X[:20], y[:20])], model=net, classes=[0, 1, 2])
    assert any("among 3 of the head's outputs" in note for note in task.notes)
    for part in ("fit", "validation"):
        split = task.batches(part)
        reference, few = predictions(net, split), evaluate(net, task, part, limit=7)
        assert grade_of(reference, reference).name == few.name == "top-1 accuracy among 3 classes"
        with torch.no_grad():
            hits = net(X[: split.num_samples])[:, :3].argmax(1) == y[: split.num_samples]
        assert grade_of(reference).value == pytest.approx(100 * hits.double().mean().item())
    unlabelled = task_of([X], model=net, classes=[4, 5])
    reference = predictions(net, unlabelled.batches("fit"))
    assert grade_of(reference, reference).name == "agreement among 2 classes"
    with pytest.raises(DataError, match="label of the fit split is class 2, which is not among the 2 classes"):
        evaluate(net, task_of([(X, y)], model=net, classes=[0, 1]), "fit")


# -- networks whose forward is random


class Noisy(nn.Module):
    def __init__(self, draw=torch.randn_like):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.head, self.draw = nn.Linear(6, 5), draw

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x) + 0.5 * self.draw(x)
        return self.head(x)


def test_a_random_forward_is_noticed_seeded_and_said():
    torch.manual_seed(0)
    net = Noisy().eval()
    with torch.no_grad():
        assert (net(X).argmax(1) == net(X).argmax(1)).double().mean() < 0.9
    task = task_of([X[:20], X[20:]], model=net)
    (note,) = [note for note in task.notes if "random in evaluation mode" in note]
    assert "seeded alike wherever networks are compared" in note
    before = torch.get_rng_state()
    first, second = (predictions(net, task.batches("fit")) for _ in range(2))
    assert torch.equal(first.values, second.values) and torch.equal(before, torch.get_rng_state())
    assert grade_of(second, first).value == 100 and grade_of(second, first).kl == 0
    few = predictions(net, task.batches("fit").first(20))
    assert torch.equal(few.values, first.values[:20])  # a batch draws the same, whatever ran before it


def test_statistics_of_a_random_network_are_the_same_twice():
    from delayer import chain_of
    from delayer.observing.rows import Rows
    from delayer.observing.stats import Geometry

    net = Noisy().eval()
    chain, batches = chain_of(net, X[:2]), task_of([X[:20], X[20:]], model=net).batches("fit")
    twice = [Geometry([tuple(range(chain.num_points))], Rows("mean"), chain.num_points) for _ in range(2)]
    for stat in twice:
        observe(chain, batches, [stat])
    assert torch.equal(twice[0].squared_distance, twice[1].squared_distance)


def test_numpys_randomness_is_held_too_and_what_no_seed_holds_is_said():
    held = Noisy(lambda x: torch.from_numpy(np.random.randn(*x.shape)).float()).eval()
    assert "seeded alike" in randomness(held, X[:4])[0]

    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * self.calls

    (note,) = randomness(Counting(), X[:4])
    assert "Seeds do not hold it" in note and "Make its forward deterministic" in note
    assert not randomness(Shaped(3), X[:4]) and not randomness(nn.Sequential(Shaped(3), nn.Dropout()), X[:4])


def test_a_source_says_that_the_network_is_random(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.numpy(), y=np.arange(60) % 5)
    task = open_task(f"npz:{tmp_path / 'a.npz'}", Noisy(), TaskOptions())
    assert task.kind == "image-classification" and sum("random in evaluation mode" in note for note in task.notes) == 1


def test_embeddings_are_told_by_cosine_and_pairs_and_by_no_agreement(tmp_path, capsys, monkeypatch):
    """Through the whole road: the headline, the table, the candidates and the page."""
    pytest.importorskip("plotly")
    import delayer
    from delayer.cli.tables import show
    from delayer.search.options import PlanOptions
    from delayer.stages import CheckOptions
    from delayer.tasks import TaskOptions

    results = delayer.run(
        "tests.tiny:network",
        "digits",
        out=tmp_path / "study",
        task_options=TaskOptions(kind="embedding", num_fit=60, num_validation=40, num_test=60),
        plan_options=PlanOptions(remove="blocks=2", effort=3),
        check_options=CheckOptions(onnx=False, seconds=0.1),
    )
    after = results.cut.grade
    assert after.name == "cosine to the original" and after.agreement is None and 0 < after.cosine < 1
    assert after.value == pytest.approx(100 * after.cosine) and -1 <= after.pair_correlation < 1
    assert "cosine to the original 100.00 →" in results.headline and "agreement" not in results.headline
    assert f"rank correlation of pair similarities {after.pair_correlation:.3f}" in results.headline
    measured = delayer.study.Study(tmp_path / "study").read("candidates").measured
    assert all(one.agreement is None and one.pair_correlation is not None for one in measured if not one.failed)
    show("check", results)
    said = capsys.readouterr().out
    assert "cosine to the original" in said and "rank correlation of pair similarities" in said
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Pair similarities" in page and "correlation of pairs" in page and "same top-1" not in page
    assert "Same answers" not in page
