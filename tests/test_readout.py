"""A new linear head on frozen features: it equals a literal twin, and finds the old head of any network."""

from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from delayer.cutting import apply, plan_by_hand
from delayer.errors import DataError, ModelError, NotFiniteError
from delayer.families import chain_of
from delayer.network.hashing import model_hash
from delayer.tasks import task_of
from delayer.tasks.splits import Batch
from delayer.tuning.readout import ReadoutOptions, head_path, linear_readout

LABELS = (3, 4, 8)


def planted(num_outputs: int = 2, width: int = 8) -> nn.Sequential:
    """A network whose features are its input turned, so that what is far apart in one is in the other."""
    torch.manual_seed(0)
    parts = {"turn": nn.Linear(width, width), "block": nn.Identity(), "head": nn.Linear(width, num_outputs)}
    model = nn.Sequential(OrderedDict(parts)).eval()
    with torch.no_grad():
        model.turn.weight.copy_(torch.linalg.qr(torch.randn(width, width))[0])
    return model


def clusters(num: int, seed: int, batch_size: int = 40) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Three clusters far apart, their labels among those in LABELS."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(3, (num,), generator=generator)
    x = torch.randn(num, 8, generator=generator) + 12 * torch.eye(8)[kind]
    return list(zip(x.split(batch_size), torch.tensor(LABELS)[kind].split(batch_size), strict=True))


def task(fit=None):
    return task_of(fit or clusters(600, 0), clusters(200, 1), clusters(300, 2), kind="image-classification")


def test_separable_features_are_read_out_whatever_the_old_head_was():
    for num_outputs in (2, 50):
        result = linear_readout(planted(num_outputs), task())
        assert result.validation.value > 98 and result.test.value > 98
        assert result.classes == LABELS and result.replaces == "head" and result.head.out_features == 3
        assert result.validation.num_samples == 200 and result.test.num_samples == 300
        assert result.test.name == "top-1 accuracy of a new head, 3 classes" and result.test.split == "test"


def test_the_protocol_equals_a_literal_twin():
    model, fit, test = planted(), clusters(600, 0), clusters(300, 2)
    result = linear_readout(model, task(), ReadoutOptions(seed=7))
    x = torch.cat([x for x, _ in fit]) @ model.turn.weight.T + model.turn.bias
    y = torch.tensor([LABELS.index(label) for _, labels in fit for label in labels.tolist()])
    torch.manual_seed(7)
    head = nn.Linear(8, 3)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(5):
        order = torch.randperm(600)
        for start in (0, 256, 512):
            rows = order[start : start + 256]
            optimizer.zero_grad()
            F.cross_entropy(head(x[rows].detach()), y[rows]).backward()
            optimizer.step()
    assert torch.allclose(result.head.weight, head.weight, atol=1e-5)
    assert torch.allclose(result.head.bias, head.bias, atol=1e-5)
    features = torch.cat([model.turn(x) for x, _ in test])
    guess = torch.tensor(LABELS)[head(features).argmax(1)]
    truth = torch.cat([labels for _, labels in test])
    assert result.test.value == pytest.approx(100 * (guess == truth).double().mean().item())


def test_it_reads_digits_as_well_as_logistic_regression():
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    parts = [[(x[rows], y[rows])] for rows in (slice(800), slice(800, 1000), slice(1000, 1797))]
    found = linear_readout(model, task_of(*parts), ReadoutOptions(epochs=60)).test.value
    peer = linear_model.LogisticRegression(max_iter=300).fit(x[:800], y[:800])
    assert found == pytest.approx(100 * peer.score(x[1000:], y[1000:]), abs=2)


def test_the_network_and_the_random_numbers_are_left_alone():
    model = planted()
    before = model_hash(model)
    model.turn.train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    result = linear_readout(model, task())
    assert torch.equal(torch.rand(1), expected)
    assert model_hash(model) == before and model.turn.training and not model.head.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert not result.head.weight.requires_grad


def test_the_new_head_takes_the_old_ones_place():
    model = planted()
    result = linear_readout(model, task())
    model.set_submodule(result.replaces, result.head)
    right = [torch.tensor(result.classes)[model(x).argmax(1)] == y for x, y in clusters(300, 2)]
    assert 100 * torch.cat(right).double().mean().item() == pytest.approx(result.test.value)


def test_a_class_that_the_fit_split_lacks_is_never_met():
    fit = [(x[y != 8], y[y != 8]) for x, y in clusters(600, 0)]
    result = linear_readout(planted(), task(fit))
    assert result.classes == (3, 4)
    truth = torch.cat([y for _, y in clusters(300, 2)])
    assert result.test.value == pytest.approx(100 * (truth != 8).double().mean().item(), abs=2)


def test_a_cut_network_is_read_out_too():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            return x + 0.01 * torch.tanh(self.inner(x))

    torch.manual_seed(0)
    model = nn.Sequential(*[Residual() for _ in range(4)], nn.Linear(8, 2)).eval()
    chain = chain_of(model, clusters(8, 0)[0][0])
    cut = apply(chain, plan_by_hand(chain, ["1:3"], operator="drop"))
    result = linear_readout(cut, task())
    assert result.replaces == "2" and result.test.value > 98
    assert linear_readout(model, task()).replaces == "4"


def test_damaged_features_read_out_worse():
    model = planted()
    blind = deepcopy(model)
    with torch.no_grad():
        blind.turn.weight[:] = blind.turn.weight[:1]  # one direction is left of eight
    assert linear_readout(blind, task()).test.value < linear_readout(model, task()).test.value - 20


def images(num: int = 2, size: int = 32, channels: int = 3) -> Batch:
    return Batch(torch.zeros(num, channels, size, size), None, 0)


def tokens() -> Batch:
    ids = torch.arange(12).view(2, 6)
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None, 0)


def timm_model(name: str, **arguments) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=5, **arguments)


def bert_like(config: str, model: str, **arguments) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    small = getattr(transformers, config)(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=5,
    )
    return getattr(transformers, model)(small, **arguments)


def vit():
    return timm_model("vit_tiny_patch16_224", img_size=32, depth=2)


def swin():
    return timm_model("swin_tiny_patch4_window7_224", img_size=32, depths=(1, 1), embed_dim=24, num_heads=(1, 1), window_size=2)


def behind_dropout():
    return nn.Sequential(nn.Flatten(), nn.Sequential(nn.Dropout(), nn.Linear(3072, 5)))


def before_a_softmax():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7), nn.Linear(7, 5), nn.Softmax(1))


def bert():
    return bert_like("BertConfig", "BertForSequenceClassification")


def roberta():
    return bert_like("RobertaConfig", "RobertaForSequenceClassification")


@pytest.mark.parametrize(
    "build, batch, path, width",
    [
        (vit, images, "head", 192),
        (swin, images, "head.fc", 48),
        (behind_dropout, images, "1.1", 3072),
        (before_a_softmax, images, "2", 7),
        (bert, tokens, "classifier", 16),
        (roberta, tokens, "classifier.out_proj", 16),
    ],
)
def test_the_head_is_found(build, batch, path, width):
    model = build()
    assert head_path(model, batch()) == path
    assert model.get_submodule(path).in_features == width


def test_a_network_without_a_head_is_read_by_its_pooled_answer_and_padding_changes_nothing():
    model = bert_like("BertConfig", "BertModel", add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(0)

    def split(num, padding):
        ids = torch.randint(3, 30, (num, 6), generator=generator)
        labels = (ids[:, :1] < 16).long()
        ids[:, 1:] = 3 + 20 * labels  # a sentence full of one word or of another
        mask = F.pad(torch.ones_like(ids), (0, padding))
        ids = F.pad(ids, (0, padding), value=7)
        batches = zip(ids.split(25), mask.split(25), labels[:, 0].split(25), strict=True)
        return [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in batches]

    found = []
    for padding in (0, 4):
        generator.manual_seed(0)
        parts = [split(num, padding) for num in (100, 50, 75)]
        found.append(linear_readout(model, task_of(*parts, kind="embedding"), ReadoutOptions(epochs=20)))
    assert found[0].replaces == "" and found[0].head.in_features == 16 and found[0].test.value == 100
    assert torch.allclose(found[0].head.weight, found[1].head.weight, atol=1e-4)


def test_what_cannot_be_done_is_said():
    unlabelled = [[x for x, _ in clusters(80, seed)] for seed in range(3)]
    with pytest.raises(DataError, match="from labels, which the fit split of batches from Python lacks. Give"):
        linear_readout(planted(), task_of(*unlabelled, kind="image-classification"))
    odd = nn.Sequential(nn.Linear(8, 5), nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 1, 2), nn.Flatten())
    with pytest.raises(ModelError, match=r"None of the 1 linear layers that ran in Sequential gives .* \[2, 4\]"):
        linear_readout(odd, task())
    broken = planted()
    with torch.no_grad():
        broken.turn.bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match="features of the fit split"):
        linear_readout(broken, task())
