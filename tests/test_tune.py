"""Fine-tuning: it recovers what was damaged, touches only what it may, and survives a kill and NaN."""

import itertools
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from delayer.cutting import apply, apply_, plan_by_hand
from delayer.errors import DataError, ModelError, StudyError
from delayer.families import chain_of
from delayer.tasks import evaluate, predictions, task_of
from delayer.tasks.splits import Batch
from delayer.tuning import TuneOptions, fine_tuning, tune_
from delayer.tuning.augment import augmented
from delayer.tuning.distillation import distance
from delayer.tuning.hidden import comparing
from delayer.tuning.neighbourhood import counterparts, neighbourhood
from delayer.tuning.optimising import optimizer_for, rate_at

WIDTH = 24
QUICK = TuneOptions(epochs=4, learning_rate=3e-3, checkpoint_steps=3)


class Block(nn.Module):
    """Residual, with everything in it that a careless loop gets wrong: statistics and dropout."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear, self.drop = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)

    def forward(self, x):
        return x + self.drop(torch.relu(self.linear(self.norm(x))))


def untrained() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, WIDTH), *[Block() for _ in range(4)], nn.Linear(WIDTH, 10))


@pytest.fixture(scope="module")
def data():
    """Real digits: batches of 25 images and labels; 500 to fit, 250 for validation."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x[:750], dtype=torch.float32) / 8 - 1, torch.tensor(y[:750])
    batches = list(zip(x.split(25), y.split(25), strict=True))
    return batches[:20], batches[20:]


@pytest.fixture(scope="module")
def teacher(data):
    """A network trained on the digits."""
    model = untrained()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(15):
        for x, y in data[0]:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def unlabelled(data):
    return in_batches(data)


def in_batches(data):
    return task_of([x for x, _ in data[0]], [x for x, _ in data[1]], kind="image-classification")


def damaged(teacher: nn.Module) -> nn.Module:
    """The teacher with one block's weights replaced by noise."""
    model = deepcopy(teacher)
    with torch.no_grad():
        model[2].linear.weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    return model


def same(one: nn.Module, two: nn.Module, *, but: tuple[str, ...] = ()) -> bool:
    first, second = one.state_dict(), two.state_dict()
    kept = [name for name in first if not any(name.startswith(prefix) for prefix in but)]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in kept)


def test_a_damaged_network_recovers_towards_its_teacher_without_labels(teacher, unlabelled):
    model = damaged(teacher)
    report = tune_(model, unlabelled, teacher, QUICK)
    assert report.before.kl > 0.5 and report.after.kl < report.before.kl / 8
    assert report.before.value < 85 and report.after.value > 88
    assert report.best_epoch == max(range(1, 5), key=lambda k: (report.epochs[k - 1].grade.value, -report.epochs[k - 1].grade.kl))
    assert report.epochs[-1].loss < report.epochs[0].loss
    assert f"Epoch {report.best_epoch} of 4" in report.note
    assert report.num_steps == 80 and report.num_params == sum(p.numel() for p in model.parameters())


def test_labels_teach_without_a_teacher_and_the_test_split_is_never_read(data):
    class Untouchable(list):
        def __iter__(self):
            if self.closed:
                raise AssertionError("the test split was read")
            return super().__iter__()

    test = Untouchable(data[1])
    test.closed = False
    task = task_of(*data, test)
    test.closed = True
    model = untrained()
    report = tune_(model, task, options=QUICK.model_copy(update={"learning_rate": 1e-2}))
    assert report.before.value < 30 and report.after.value > 75 and report.after.kl is None


def test_modes_gradients_and_statistics_are_left_alone(teacher, unlabelled):
    model = damaged(teacher)
    model[1].train()
    model[3].linear.weight.requires_grad_(False)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tune_(model, unlabelled, teacher, QUICK)
    assert torch.equal(torch.rand(1), expected)
    assert model[1].training and model[1].drop.training and not model[2].training and not teacher.training
    assert not model[3].linear.weight.requires_grad and model[2].linear.weight.requires_grad
    assert all(p.grad is None for p in [*model.parameters(), *teacher.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), teacher.buffers(), strict=True))


def test_batch_norms_collect_statistics_only_when_asked_and_only_where_they_are_trained(teacher, unlabelled):
    model = damaged(teacher)
    names = {f"1.{name}" for name, _ in model[1].named_parameters()} | {"2.linear.weight"}
    tune_(model, unlabelled, teacher, QUICK.model_copy(update={"update_norms": True}), only=names)
    assert not torch.equal(model[1].norm.running_mean, teacher[1].norm.running_mean)
    assert torch.equal(model[2].norm.running_mean, teacher[2].norm.running_mean)


def test_a_network_that_nothing_improves_keeps_every_bit(teacher, unlabelled):
    model = deepcopy(teacher)
    report = tune_(model, unlabelled, teacher, QUICK)
    assert same(model, teacher)
    assert report.best_epoch == 0 and report.after == report.before and len(report.epochs) == 4
    assert "No epoch was better" in report.note and "those weights are back" in report.note


class Poisoned(list):
    """Batches of which every one holds NaN after so many reads."""

    reads, good = 0, 10**9

    def __getitem__(self, k):
        self.reads += 1
        return super().__getitem__(k) * (float("nan") if self.reads > self.good else 1)


@pytest.mark.parametrize("good", [7, 27])
def test_nan_ends_the_run_with_the_best_weights(teacher, data, good):
    fit = Poisoned(x for x, _ in data[0])
    task = task_of(fit, [x for x, _ in data[1]], kind="image-classification")
    fit.reads, fit.good = 0, good
    model = damaged(teacher)
    report = tune_(model, task, teacher, QUICK)
    assert report.num_steps <= good and report.best_epoch == good // 20
    assert f"the loss was not finite in step {report.num_steps + 1} of 80" in report.note
    assert report.after == evaluate(model, task, reference=predictions(teacher, task.batches("validation")))
    assert same(model, damaged(teacher)) == (good < 20)


def stop_at(step: int):
    def progress(done, total):
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def unbroken_run(teacher, data):
    """What a run that nobody kills ends in, and its report."""
    model = damaged(teacher)
    return model, tune_(model, in_batches(data), teacher, QUICK)


@pytest.mark.parametrize(
    "steps", [pytest.param((13,), marks=pytest.mark.slow), (20,), pytest.param((21, 59), marks=pytest.mark.slow), (3, 22, 41, 79)]
)
def test_a_run_that_is_killed_goes_on_to_the_same_bits(teacher, unlabelled, unbroken_run, tmp_path, steps):
    unbroken, expected = unbroken_run
    file = tmp_path / "tune.safetensors"
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            tune_(damaged(teacher), unlabelled, teacher, QUICK, checkpoint=file, progress=stop_at(step))
    seen = []
    model = damaged(teacher)
    report = tune_(model, unlabelled, teacher, QUICK, checkpoint=file, progress=lambda *at: seen.append(at))
    assert seen[0][0] > steps[-1] - 3
    assert same(model, unbroken) and report == expected
    again = damaged(teacher)  # the run is over: nothing is trained, the result is there
    assert tune_(again, unlabelled, teacher, QUICK, checkpoint=file, progress=stop_at(1)) == expected
    assert same(again, unbroken)


def test_momentum_survives_a_kill(teacher, unlabelled, tmp_path):
    options = QUICK.model_copy(update={"optimizer": "sgd", "learning_rate": 0.02, "milestones": (1, 3)})
    unbroken, model, file = damaged(teacher), damaged(teacher), tmp_path / "tune.safetensors"
    expected = tune_(unbroken, unlabelled, teacher, options)
    for step in (13, 41):
        with pytest.raises(KeyboardInterrupt):
            tune_(damaged(teacher), unlabelled, teacher, options, checkpoint=file, progress=stop_at(step))
    assert tune_(model, unlabelled, teacher, options, checkpoint=file) == expected and same(model, unbroken)
    assert expected.best_epoch and expected.after.kl < expected.before.kl / 2
    with pytest.raises(StudyError, match="milestones"):
        tune_(damaged(teacher), unlabelled, teacher, options.model_copy(update={"milestones": (2,)}), checkpoint=file)


def test_a_rate_that_only_harms_is_left_also_after_a_kill(teacher, unlabelled, tmp_path):
    harmful = QUICK.model_copy(update={"learning_rate": 30.0})
    report = tune_(damaged(teacher), unlabelled, teacher, harmful)
    assert not report.best_epoch and not report.retreats
    options, unbroken = harmful.model_copy(update={"retreat": True, "epochs": 7}), damaged(teacher)
    report = tune_(unbroken, unlabelled, teacher, options)
    assert report.retreats == report.epochs.index(next(e for e in report.epochs if e.grade.value > report.before.value)) > 1
    assert report.best_epoch > report.retreats and report.after.kl < report.before.kl / 1.5
    model, file = damaged(teacher), tmp_path / "tune.safetensors"
    for step in (18, 31):  # in the first epoch, and after a retreat
        with pytest.raises(KeyboardInterrupt):
            tune_(damaged(teacher), unlabelled, teacher, options, checkpoint=file, progress=stop_at(step))
    assert tune_(model, unlabelled, teacher, options, checkpoint=file) == report and same(model, unbroken)
    # What was left over is a run at the smaller rate.
    rest = options.model_copy(update={"learning_rate": 30 / 3**report.retreats, "epochs": 7 - report.retreats})
    assert tune_(damaged(teacher), unlabelled, teacher, rest).retreats == 0


def test_milestones_stay_at_their_epochs_after_a_retreat(teacher, unlabelled, monkeypatch):
    """What is left of the run shrinks with each retreat, and so does the way to the milestone: both end where they did."""
    asked = []

    def spy(step, num_steps, **how):
        asked.append((num_steps, how["milestones"][0]))
        return rate_at(step, num_steps, **how)

    monkeypatch.setattr(fine_tuning, "rate_at", spy)
    options = QUICK.model_copy(update={"learning_rate": 30.0, "retreat": True, "milestones": (3,)})
    assert tune_(damaged(teacher), unlabelled, teacher, options).retreats > 1
    assert len(set(asked)) > 1 and {num_steps - milestone for num_steps, milestone in asked} == {20}


def test_a_published_recipe_is_plain_sgd_with_steps(data):
    """SGD with momentum and decay on every parameter, no warm-up, no clipping, no teacher: as a literal loop."""
    task = task_of(*data)
    options = TuneOptions(
        optimizer="sgd",
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=5e-3,
        epochs=3,
        milestones=(1, 2),
        warmup=0,
        clip=float("inf"),
        teacher_weight=0,
        label_weight=1,
        update_norms=True,
    )
    model, twin = (nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    report = tune_(model, task, options=options)
    assert report.best_epoch == 3  # so that its weights are the last ones
    velocity = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for epoch in range(3):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(epoch)).tolist()
        for number in order:
            x, y = data[0][number]
            loss = F.cross_entropy(twin.train()(x), y)
            gradients = torch.autograd.grad(loss, list(twin.parameters()))
            with torch.no_grad():
                for (name, p), gradient in zip(twin.named_parameters(), gradients, strict=True):
                    velocity[name] = 0.9 * velocity[name] + gradient + 5e-3 * p
                    p -= 0.05 / 10**epoch * velocity[name]
    for one, other in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_teacher_of_no_weight_is_not_asked_and_still_compared_with(data, teacher):
    asked = []
    watched = deepcopy(teacher)
    watched.register_forward_hook(lambda *_: asked.append(1))
    options = QUICK.model_copy(update={"epochs": 1, "teacher_weight": 0, "label_weight": 1})
    report = tune_(damaged(teacher), task_of(*data), watched, options)
    assert len(asked) == len(data[1]) and report.before.kl > 0


def test_the_seed_decides(teacher, unlabelled):
    one, two, three = (damaged(teacher) for _ in range(3))
    for model, seed in ((one, 0), (two, 0), (three, 1)):
        tune_(model, unlabelled, teacher, QUICK, seed=seed)
    assert same(one, two) and not same(one, three)


def test_a_checkpoint_of_another_run_is_refused_and_a_broken_one_too(teacher, unlabelled, tmp_path):
    file = tmp_path / "tune.safetensors"
    tune_(damaged(teacher), unlabelled, teacher, QUICK.model_copy(update={"epochs": 1}), checkpoint=file)
    with pytest.raises(StudyError, match=r"another run: its epochs, seed differ. Delete it"):
        tune_(damaged(teacher), unlabelled, teacher, QUICK, checkpoint=file, seed=1)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StudyError, match="no checkpoint that this version can go on from"):
        tune_(damaged(teacher), unlabelled, teacher, QUICK, checkpoint=file)


def test_only_the_neighbourhood_is_trained(teacher, unlabelled, data):
    """Block 2 of the sequence becomes a map between blocks 1 and 3."""
    chain = chain_of(teacher, data[0][0][0])
    plan = plan_by_hand(chain, ["2"])
    task_batches = [Batch(x, None, 0) for x, _ in data[0]]
    model = apply(chain, plan, data=task_batches)
    with torch.no_grad():
        model[2].map.weight.zero_()
    before = deepcopy(model)
    names = neighbourhood(chain, plan)
    assert {name.split(".")[0] for name in names} == {"1", "2", "3"} and "2.map.weight" in names
    report = tune_(model, unlabelled, teacher, QUICK, only=names)
    assert report.best_epoch > 0 and report.num_params < sum(p.numel() for p in model.parameters())
    assert same(model, before, but=("1.", "2.", "3."))
    old = dict(before.named_parameters())
    assert {name for name, tensor in model.named_parameters() if not torch.equal(tensor, old[name])} == names


def vit() -> nn.Module:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=24, num_heads=2, depth=8)


@pytest.mark.parametrize(
    "spans, operator, expected",
    [
        (["3:5"], "drop", {"blocks.2", "blocks.3"}),
        (["3:5"], "affine", {"blocks.2", "blocks.3.map", "blocks.4"}),
        (["0", "7"], "drop", {"blocks.0", "blocks.5"}),
        (["2", "3"], "affine", {"blocks.1", "blocks.2.map", "blocks.3.map", "blocks.4"}),
        (["1:3", "4:6"], "drop", {"blocks.0", "blocks.1", "blocks.2"}),
    ],
)
def test_a_neighbourhood_is_the_maps_and_one_block_on_either_side(spans, operator, expected):
    model = vit()
    chain = chain_of(model)
    plan = plan_by_hand(chain, spans, operator=operator)
    near, wide = neighbourhood(chain, plan), neighbourhood(chain, plan, reach=8)
    assert len(model.blocks) == 8
    all_names = [name for name, _ in apply_(chain, plan).named_parameters()]
    assert near == {name for name in all_names if name.startswith(tuple(f"{path}." for path in expected))}
    assert wide == {name for name in all_names if name.startswith("blocks.")}


@pytest.mark.parametrize(
    "spans, operator, expected",
    [
        (["3:5"], "drop", {0: 0, 1: 1, 2: 4, 3: 5, 4: 6, 5: 7}),
        (["3:5"], "affine", {0: 0, 1: 1, 2: 2, 3: 4, 4: 5, 5: 6, 6: 7}),
        (["0", "7"], "drop", {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 7}),
    ],
)
def test_counterparts_stand_behind_all_that_a_block_stands_for(spans, operator, expected):
    chain = chain_of(vit())
    plan = plan_by_hand(chain, spans, operator=operator)
    assert counterparts(chain, plan) == {f"blocks.{mine}": f"blocks.{theirs}" for mine, theirs in expected.items()}


@pytest.mark.parametrize("padded", [False, True])
def test_hidden_states_are_compared_where_both_networks_have_them(padded):
    torch.manual_seed(0)
    model, teacher = (nn.Sequential(*[nn.Linear(6, 6) for _ in range(3)]) for _ in range(2))
    x, mask = torch.randn(4, 5, 6), torch.arange(5) < torch.tensor([[5], [2], [3], [1]])
    with comparing(model, teacher, {"0": "0", "1": "2"}) as apart:
        teacher(x), model(x)
        found = apart(torch.ones(4, 9), mask) if padded else apart(None)  # the mask of the same width counts
    rows = [(0, t) for t in range(5)] + [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0)] if padded else list(np.ndindex(4, 5))
    expected = 0.0
    for mine, theirs in ((model[:1], teacher[:1]), (model[:2], teacher)):
        pairs = [(mine(x)[row], theirs(x)[row]) for row in rows]
        expected += sum((a - b).norm() ** 2 for a, b in pairs) / sum(b.norm() ** 2 for _, b in pairs) / 2
    assert found.requires_grad and float(found) == pytest.approx(float(expected), rel=1e-5)
    assert not any(module._forward_hooks for network in (model, teacher) for module in network.modules())


def test_hidden_states_come_closer_the_more_they_count(teacher, unlabelled, data):
    distances, pairs = [], {str(block): str(block) for block in range(1, 5)}
    for weight in (0.0, 10.0):
        model = damaged(teacher)
        tune_(model, unlabelled, teacher, QUICK.model_copy(update={"hidden_weight": weight}), counterparts=pairs)
        with comparing(model, teacher, pairs) as apart, torch.no_grad():
            for network in (teacher, model):
                network.eval()(data[1][0][0])
            distances.append(float(apart()))
    assert distances[1] < distances[0] / 1.5


def test_a_relative_rate_moves_every_tensor_by_the_same_share(teacher, unlabelled):
    """The first step of Adam is the rate, whatever the gradient; so each tensor moves by that share of its size."""
    model, options = (
        damaged(teacher),
        QUICK.model_copy(update={"epochs": 1, "learning_rate": 0.01, "relative": True, "warmup": 0, "weight_decay": 0}),
    )
    before, moved = {name: p.detach().clone() for name, p in model.named_parameters()}, {}

    def after_first(done, _):
        if done == 1:
            moved.update({name: float((p - before[name]).abs().max()) for name, p in model.named_parameters()})

    tune_(model, unlabelled, teacher, options, progress=after_first)
    for name, tensor in before.items():
        size = max(float(tensor.square().mean().sqrt()), 1e-3)
        assert moved[name] == pytest.approx(0.01 * size, rel=1e-2), name


def test_what_cannot_be_done_is_said(teacher, unlabelled, data):
    with pytest.raises(DataError, match="to learn from: no teacher of weight 1, no labels of weight 0.3. Pass"):
        tune_(damaged(teacher), unlabelled)
    with pytest.raises(DataError, match="nothing to learn from: a teacher of weight 0, no labels"):
        tune_(damaged(teacher), unlabelled, teacher, TuneOptions(teacher_weight=0))
    with pytest.raises(DataError, match="labels of weight 0"):
        tune_(damaged(teacher), task_of(*data), options=TuneOptions(label_weight=0))
    with pytest.raises(ModelError, match="cannot be its own teacher"):
        tune_(teacher, unlabelled, teacher)
    with pytest.raises(ModelError, match="found 'blocks.9', which it lacks"):
        tune_(damaged(teacher), unlabelled, teacher, only={"1.linear.weight", "blocks.9"})
    with pytest.raises(ModelError, match="found none"):
        tune_(damaged(teacher), unlabelled, teacher, only=set())
    hidden = TuneOptions(hidden_weight=1)
    with pytest.raises(DataError, match="there is no pair of them. Pass"):
        tune_(damaged(teacher), unlabelled, teacher, hidden)
    with pytest.raises(DataError, match="there is no teacher. Pass"):
        tune_(damaged(teacher), task_of(*data), None, hidden, counterparts={"1": "1"})
    with pytest.raises(ModelError, match="There is no module 1.blocks in Sequential"):
        tune_(damaged(teacher), unlabelled, teacher, hidden, counterparts={"1": "1.blocks"})
    with pytest.raises(ModelError, match=r"of 1 has shape \(25, 24\), the teacher's \(25, 10\)"):
        tune_(damaged(teacher), unlabelled, teacher, hidden, counterparts={"1": "5"})
    with pytest.raises(ValueError, match="relative rates go with adamw"):
        TuneOptions(relative=True, optimizer="sgd")


def test_the_loss_of_classes_equals_a_slow_twin():
    generator = torch.Generator().manual_seed(0)
    output, taught = torch.randn(5, 4, generator=generator), torch.randn(5, 4, generator=generator)
    labels = torch.tensor([0, 3, 1, 1, 2])
    total = 0.0
    for s, t, y in zip(output.double(), taught.double(), labels, strict=True):
        p, q, hard = (t / 2).softmax(0), (s / 2).softmax(0), s.softmax(0)
        kl = sum(p[k] * (p[k].log() - q[k].log()) for k in range(4))
        target = [0.1 / 4 + (0.9 if k == y else 0) for k in range(4)]
        total += 0.7 * 4 * kl - 0.3 * sum(target[k] * hard[k].log() for k in range(4))
    batch = Batch(torch.zeros(5, 1), labels, 0)
    found = distance(
        output, taught, batch, "image-classification", temperature=2.0, teacher_weight=0.7, label_weight=0.3, label_smoothing=0.1
    )
    assert found.item() == pytest.approx(total.item() / 5, rel=1e-5)


def test_the_loss_of_tokens_counts_each_real_next_token_once():
    generator = torch.Generator().manual_seed(0)
    output, taught = torch.randn(2, 4, 6, generator=generator), torch.randn(2, 4, 6, generator=generator)
    ids, mask = torch.tensor([[1, 2, 3, 4], [5, 1, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    total = 0.0
    for sample, position in ((0, 0), (0, 1), (0, 2), (1, 0)):
        p, q = taught[sample, position].double().softmax(0), output[sample, position].double().softmax(0)
        total += (p * (p / q).log()).sum() - q[ids[sample, position + 1]].log()
    batch = Batch({"input_ids": ids, "attention_mask": mask}, None, 0)
    found = distance(output, taught, batch, "causal-lm")
    assert found.item() == pytest.approx(total.item() / 4, rel=1e-5)
    output[1, 2:] = float("nan")
    assert distance(output, taught, batch, "causal-lm").item() == found.item()


def test_the_loss_of_embeddings_is_the_relative_distance_of_the_pooled_vectors():
    taught = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    batch = Batch({"input_ids": torch.zeros(3, 5, dtype=torch.long), "attention_mask": mask}, None, 0)
    output = 1.1 * taught
    output[1, 2:], output[2, 3:] = 1e6, float("nan")
    assert distance(output, taught, batch, "embedding").item() == pytest.approx(0.01, rel=1e-4)


def test_a_language_model_with_a_damaged_block_recovers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    teacher = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=16,
        )
    ).eval()
    step, start = torch.randint(1, 4, (160, 1)), torch.randint(16, (160, 1))
    ids = (torch.arange(12) * step + start) % 16  # counting by ones, twos or threes
    mask = torch.ones_like(ids)
    mask[::3, 8:] = 0
    pairs = zip(ids.split(16), mask.split(16), strict=True)
    batches = [{"input_ids": some, "attention_mask": real} for some, real in pairs]
    task = task_of(batches[:8], batches[8:], kind="causal-lm")
    fast = TuneOptions(epochs=12, learning_rate=1e-2)
    trained = tune_(teacher, task, options=fast)
    assert trained.before.value > 12 and trained.after.value < 3  # guessing gives 16
    model = deepcopy(teacher)
    with torch.no_grad():
        for p in model.model.layers[1].parameters():
            p.mul_(-1)
    report = tune_(model, task, teacher, fast.model_copy(update={"epochs": 4, "learning_rate": 3e-3}))
    assert report.after.kl < report.before.kl / 3 and not report.after.higher_is_better
    assert report.after.value < report.before.value


def test_the_rate_rises_to_the_peak_and_falls_towards_zero():
    rates = [rate_at(step, 50, peak=2.0, warmup=0.1) for step in range(50)]
    assert rates[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert all(a > b for a, b in itertools.pairwise(rates[5:])) and 0 < rates[-1] < 0.01
    assert rate_at(0, 1, peak=2.0, warmup=0.0) == 2.0


def test_milestones_divide_the_rate_by_ten():
    rates = [rate_at(step, 150, peak=0.01, warmup=0, milestones=(50, 100)) for step in range(150)]
    assert rates == pytest.approx([0.01] * 50 + [0.001] * 50 + [0.0001] * 50)
    assert rate_at(1, 10, peak=1.0, warmup=0.5, milestones=(1,)) == pytest.approx(0.4)  # the warm-up comes first


def test_adamw_spares_vectors_and_sgd_decays_all():
    trained = dict(nn.Linear(3, 2).named_parameters())
    decays = [
        {
            p.ndim: group["weight_decay"]
            for group in optimizer_for(trained, kind, weight_decay=0.1, momentum=0.9).param_groups
            for p in group["params"]
        }
        for kind in ("adamw", "sgd")
    ]
    assert decays == [{2: 0.1, 1: 0.0}, {2: 0.1, 1: 0.1}]


def test_pictures_are_mirrored_and_moved_whole():
    x = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).view(2, 3, 6, 6)
    assert augmented(x) is x
    torch.manual_seed(0)
    seen = torch.cat([augmented(x[:1], flip=True) for _ in range(20)])
    assert {bool(torch.equal(s, x[0])) for s in seen} == {True, False}
    assert all(torch.equal(s, x[0]) or torch.equal(s, x[0].flip(2)) for s in seen)
    padded = F.pad(x, [2] * 4, mode="reflect")
    crops = [[padded[n, :, i : i + 6, j : j + 6] for i in range(5) for j in range(5)] for n in range(2)]
    places = set()
    for _ in range(30):
        for n, moved in enumerate(augmented(x, shift=2)):
            places.add(next(k for k, crop in enumerate(crops[n]) if torch.equal(crop, moved)))
    assert len(places) > 15
    torch.manual_seed(3)
    one = augmented(x, flip=True, shift=1)
    torch.manual_seed(3)
    assert torch.equal(one, augmented(x, flip=True, shift=1))


def test_what_is_no_picture_is_not_moved(data, teacher):
    for inputs, found in ((torch.zeros(2, 5), r"\[2, 5\]"), ({"x": torch.zeros(2)}, "dict"), (torch.zeros(1, 1, 4, 4), "4, 4")):
        with pytest.raises(DataError, match=f"larger than twice the shift .2.; found .*{found}.*Leave flip and shift out"):
            augmented(inputs, shift=2)
    with pytest.raises(DataError, match="Flips and shifts move pictures"):
        tune_(deepcopy(teacher), task_of(*data), teacher, TuneOptions(epochs=1, flip=True))


def test_hidden_states_are_learnt_from_a_teacher_alone():
    with pytest.raises(ValueError, match="Hidden states are learnt from a teacher alone. Give taught="):
        distance(torch.zeros(2, 3), None, Batch(torch.zeros(2, 3), None, 0), "embedding")
