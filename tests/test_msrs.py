"""MSRS: laws of the count, a slow literal twin, any chain, and what it says where there is little to say."""

import itertools
import json
import math

import pytest
import torch
from planted import BY_NAME, CASES, normal
from torch import Tensor, nn

from delayer.families import chain_of
from delayer.metrics.blocks import Layout, metrics
from delayer.metrics.blocks.cka import cka_of
from delayer.metrics.blocks.msrs import msrs_of
from delayer.metrics.intervals import mean_interval, t_975
from delayer.network.layers import layers_of
from delayer.observing.rows import Rows
from delayer.observing.stats.hsic import hsic_of
from delayer.search.scoring import ScoreOptions, score
from delayer.tasks.splits import Batch

NUM_LAYERS = 6


def stream(num: int, seed: int = 0) -> list[Tensor]:
    """Six layers [num, 5] that drift, so that near ones are alike and far ones are not."""
    draw = torch.Generator().manual_seed(seed)
    x = [torch.randn(num, 5, generator=draw, dtype=torch.float64)]
    for _ in range(NUM_LAYERS - 1):
        x.append(x[-1] + 0.35 * torch.randn(num, 5, generator=draw, dtype=torch.float64) + 1)
    return x


def layout(num: int = NUM_LAYERS, **more) -> Layout:
    return Layout(
        num_points=num,
        groups=(tuple(range(num)),),
        rows=Rows("mean"),
        outlets=tuple(range(1, num)),
        layers=tuple(range(num)),
        kinds=("Block",) * num,
        **more,
    )


def read(features: list[Tensor], splits=(10_000,), name: str = "msrs", **options):
    """What a metric says of features that arrive in batches of these sizes, over and over."""
    place = layout(len(features))
    stat, start, turn = metrics[name].stat(place), 0, 0
    while start < len(features[0]):
        ids = torch.arange(start, min(start + splits[turn % len(splits)], len(features[0])))
        stat.update({p: x[ids] for p, x in enumerate(features)}, ids)
        start, turn = start + len(ids), turn + 1
    return metrics[name].read(stat, place, options), metrics[name].warn(stat, place, options)


def literal_hsic(x: Tensor, y: Tensor) -> float:
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)
    k, m = x.double() @ x.double().T, y.double() @ y.double().T
    for gram in (k, m):
        for i in range(n):
            gram[i, i] = 0
    return float(
        (torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one))
        / (n * (n - 3))
    )


def literal_similarity(x: Tensor, y: Tensor) -> float:
    return literal_hsic(x, y) / math.sqrt(literal_hsic(x, x) * literal_hsic(y, y))


def literal_score(features: list[Tensor], tau: float, beta: float) -> float:
    """Pair by pair, as the paper writes it."""
    total = 0.0
    for i in range(len(features)):
        for j in range(i + 1, len(features)):
            total += 1 / (1 + math.exp(-2 * beta * (literal_similarity(features[i], features[j]) - tau)))
    return total


@pytest.mark.parametrize("tau, beta", [(0.8, 100.0), (0.7, 100.0), (0.5, 5.0)])
def test_the_score_equals_its_slow_literal_twin(tau, beta):
    x = stream(2 * 256)
    expected = [literal_score([part[k : k + 256] for part in x], tau, beta) for k in (0, 256)]
    found, _ = read(x, tau=tau, beta=beta)
    assert found["score"] == pytest.approx(sum(expected) / 2, rel=1e-10)
    assert found["spread"] == pytest.approx(abs(expected[0] - expected[1]) / math.sqrt(2), rel=1e-8)
    assert found["share"] == pytest.approx(found["score"] / 15) and found["maximum"] == 15
    assert (found["layers"], found["batches"], found["tau"], found["beta"]) == (6, 2, tau, beta)


def test_all_pairs_at_once_are_the_literal_similarities():
    x = stream(64)
    expected = torch.tensor([[literal_similarity(a, b) for b in x] for a in x], dtype=torch.float64)
    torch.testing.assert_close(cka_of(hsic_of(x)), expected, rtol=1e-10, atol=1e-12)


def test_as_beta_grows_it_becomes_the_number_of_pairs_above_tau():
    s = cka_of(hsic_of(stream(100)))
    above = int((s[torch.ones_like(s, dtype=torch.bool).triu(1)] > 0.8).sum())
    assert 0 < above < 15
    off = [abs(float(msrs_of(s, tau=0.8, beta=beta)) - above) for beta in (10, 100, 1e3, 1e6)]
    assert off == sorted(off, reverse=True) and off[-1] < 1e-9
    found, _ = read(stream(100), beta=1e6)
    assert found["pairs above tau"] == above == pytest.approx(found["score"])


@pytest.mark.parametrize("value", [-1e300, -5.0, -0.087, 0.0, 0.8, 1.0, 1e300, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("beta", [1e-3, 100.0, 1e12])
def test_extreme_similarities_give_no_nan(value, beta):
    s = torch.full((3, 4, 4), value, dtype=torch.float64)
    found = msrs_of(s, beta=beta)
    assert found.shape == (3,) and found.isfinite().all() and (found >= 0).all() and (found <= 6).all()


def test_it_rises_with_each_similarity_and_does_not_read_the_diagonal():
    s = cka_of(hsic_of(stream(100)))
    higher = s.clone()
    higher[1, 4] += 0.05
    assert msrs_of(higher) > msrs_of(s)
    s.fill_diagonal_(0)
    higher = s.clone().fill_diagonal_(math.nan)
    assert msrs_of(higher) == msrs_of(s)


@pytest.mark.parametrize("splits", [(1,), (7, 100, 3), (256,), (300,), (128, 511)])
def test_any_batches_of_the_loader_give_the_same(splits):
    x = stream(600)
    torch.testing.assert_close(read(x, splits)[0], read(x)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(read(x, splits, "adjacent_similarity")[0], read(x, name="adjacent_similarity")[0], equal_nan=True)


def test_a_last_batch_counts_from_half_the_size_on():
    x = stream(640)
    assert read([part[:639] for part in x])[0]["batches"] == 2 and read(x)[0]["batches"] == 3
    assert read([part[:639] for part in x])[0]["score"] == read([part[:512] for part in x])[0]["score"]


def test_identical_layers_reach_the_maximum_and_unrelated_ones_nothing():
    x = stream(300)[0]
    found, _ = read([x, 3 * x + 1, x.clone(), -x])
    assert found["share"] == pytest.approx(1, abs=1e-12) and found["pairs above tau"] == 6
    found, _ = read([torch.randn(300, 5, generator=torch.Generator().manual_seed(k)) for k in range(4)])
    assert found["share"] < 1e-12


def test_constant_features_count_as_unlike_and_are_told():
    x = stream(300)
    x[2] = torch.full_like(x[2], 0.3)
    found, told = read(x)
    without, _ = read([part for k, part in enumerate(x) if k != 2])
    assert found["score"] == pytest.approx(without["score"])
    assert any("1 of 6 layers (the first is number 2) are constant" in text for text in told)


@pytest.mark.parametrize("num", [1, 3])
def test_batches_under_four_samples_give_zero_and_a_warning(num):
    found, told = read(stream(num))
    assert found["score"] == found["share"] == 0 and all(math.isfinite(v) for v in found.values())
    assert any(f"at least 4 samples and found {num}" in text and "--num-fit" in text for text in told)


@pytest.mark.parametrize("num", [4, 5, 100, 256])
def test_one_batch_has_no_interval_and_says_so(num):
    found, told = read(stream(num))
    assert all(math.isfinite(v) for v in found.values()) and not {"low", "high", "spread"} & found.keys()
    assert any(f"one batch, of {num} samples" in text and "--num-fit" in text for text in told)
    assert not read(stream(1024))[1]


def test_one_layer_only_is_zero_of_zero_and_told():
    found, told = read(stream(300)[:1])
    assert found["share"] == found["score"] == found["maximum"] == 0
    assert any("one layer only" in text for text in told)


def test_layers_that_differ_in_kind_are_told():
    place = Layout(num_points=3, groups=(), rows=Rows("mean"), outlets=(1, 2), layers=(0, 1), kinds=("Conv2d", "Attention"))
    stat = metrics["msrs"].stat(place)
    stat.update(dict(enumerate(stream(600)[:2])), torch.arange(600))
    assert "differ in kind (Conv2d, Attention)" in metrics["msrs"].warn(stat, place)[-1]


def test_the_interval_is_students():
    values = [4.0, 7.0, 5.5, 6.5]
    low, high = mean_interval(values)
    half = 3.182446 * torch.tensor(values).std().item() / 2
    assert (low, high) == (pytest.approx(5.75 - half, abs=1e-4), pytest.approx(5.75 + half, abs=1e-4))
    assert mean_interval([1.0]) == (None, None) and mean_interval([2.0, 2.0]) == (2.0, 2.0)
    # Of published tables.
    for freedom, expected in ((1, 12.706), (10, 2.228), (11, 2.201), (15, 2.131), (30, 2.042), (120, 1.980)):
        assert t_975(freedom) == pytest.approx(expected, abs=6e-4)


class Residual(nn.Module):
    def __init__(self, before: int, width: int):
        super().__init__()
        self.conv = nn.Conv2d(before, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + (x if x.shape[1] == self.conv.out_channels else 0))


class Pictures(nn.Module):
    """A small residual network: a convolution, its norm, two stages."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.stages = nn.Sequential(*[Residual(6, 6) for _ in range(3)], *[Residual(6 if k == 0 else 8, 8) for k in range(2)])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(torch.relu(self.norm(self.first(x)))).mean((2, 3)))


def batches(x: Tensor, size: int) -> list[Batch]:
    return [Batch(part, None, k * size) for k, part in enumerate(x.split(size))]


def test_a_residual_network_is_measured_at_its_first_convolution_and_behind_each_block():
    torch.manual_seed(0)
    model = Pictures().eval()
    x = torch.randn(40, 3, 9, 9)
    chain = chain_of(model, x[:2])
    assert [layer.place for layer in layers_of(chain)] == ["first", 1, 2, 3, 4, 5]
    assert [layer.block for layer in layers_of(chain)] == [None, 0, 1, 2, 3, 4]
    seen = [model.first(x)]  # before the norm
    hidden = torch.relu(model.norm(seen[0]))
    for block in model.stages:
        hidden = block(hidden)
        seen.append(hidden)
    pooled = [h.detach().mean((2, 3)).double() for h in seen]
    [one] = score(chain, batches(x, 16), ["msrs"], options=ScoreOptions(metric_options={"beta": 7, "tau": 0.4}))
    assert one.named["score"] == pytest.approx(literal_score(pooled, 0.4, 7), rel=1e-5)
    assert one.rows == "mean" and one.num_samples == 40 and one.shape == "network" and one.named["layers"] == 6
    [adjacent] = score(chain, batches(x, 16), ["adjacent_similarity"])
    expected = [literal_similarity(a, b) for a, b in itertools.pairwise(pooled)]
    assert adjacent.values == pytest.approx(expected, rel=1e-5)


def test_every_convolution_of_a_vgg_is_a_layer_and_nothing_else():
    chain = BY_NAME["torchvision-vgg"].chain()
    layers = layers_of(chain)
    assert [chain.module(layer.block).__class__ for layer in layers] == [nn.Conv2d] * 6
    assert [layer.width for layer in layers] == [16, 16, 16, 16, 32, 32]
    [one] = score(chain, batches(torch.randn(8, 3, 32, 32), 8), ["msrs"])
    assert one.named["tau"] == 0.7  # as published for VGG
    assert (
        score(chain, batches(torch.randn(8, 3, 32, 32), 8), ["msrs"], options=ScoreOptions(metric_options={"tau": 0.8}))[0].named[
            "tau"
        ]
        == 0.8
    )


@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_a_transformer_is_measured_behind_each_block_over_the_tokens_or_at_one(pool):
    case = BY_NAME["timm-vit"]
    chain = chain_of(case.build(), case.inputs())
    assert [layer.place for layer in layers_of(chain)] == list(range(1, 7))  # no patch embedding
    x = normal(12, 3, 16, 16)()
    seen: list[Tensor] = []
    handles = [chain.module(i).register_forward_hook(lambda m, a, out: seen.append(out.detach())) for i in range(6)]
    with torch.no_grad():
        chain.model(x)
    for handle in handles:
        handle.remove()
    rows = [{"mean": h.mean(1), "first": h[:, 0], "last": h[:, -1]}[pool].double() for h in seen]
    [one] = score(chain, batches(x, 5), ["msrs"], options=ScoreOptions(pool=pool, metric_options={"beta": 20}))
    assert one.named["score"] == pytest.approx(literal_score(rows, 0.8, 20), rel=1e-5) and one.rows == pool


def test_planted_identity_blocks_raise_the_score():
    case = BY_NAME["timm-vit"]
    lively, planted = chain_of(case.build(), case.inputs()), case.chain()
    x = batches(normal(64, 3, 16, 16)(), 32)
    found = [score(chain, x, ["msrs"])[0].named["pairs above tau"] for chain in (lively, planted)]
    assert found[1] >= 4 and found[1] > found[0]  # blocks 2, 3 and 5 hand on what they got


@pytest.mark.data
@pytest.mark.parametrize(
    "name, expected, num_layers", [("cifar_resnet20", 12.69, 10), ("cifar_resnet32", 55.07, 16), ("cifar_resnet56", 174.15, 28)]
)
def test_published_networks_have_their_reference_values(data_root, monkeypatch, name, expected, num_layers):
    import sys
    from pathlib import Path

    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent / "benchmarks"), *sys.path])
    import msrs as benchmark

    _, scores = benchmark.judged(data_root, name, 3)
    numbers = scores["msrs"].named
    assert numbers["score"] == pytest.approx(expected, abs=0.3) and numbers["layers"] == num_layers
    if name == "cifar_resnet56":
        published = json.loads((data_root.parent / "reference/redtest.json").read_text())["resnet56_cifar10_adjacent_cka"]
        off = [abs(a - b) for a, b in zip(scores["adjacent_similarity"].values, published, strict=True)]
        assert sum(off) / len(off) < 0.003


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_any_family_has_its_layers_and_a_score(case):
    chain = case.chain()
    layers = layers_of(chain)
    blocks = [layer.block for layer in layers if layer.block is not None]
    assert len(blocks) > 1 and blocks == sorted(set(blocks))
    assert all(any(p.ndim > 1 for p in chain.module(b).parameters()) for b in blocks)
    inputs = case.inputs()
    num = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    found = [Batch(inputs, mask, k * num) for k in range(4)]  # the same samples again: they count as others
    [one, adjacent] = score(chain, found, ["msrs", "adjacent_similarity"])
    assert all(math.isfinite(value) for value in one.values) and one.named["maximum"] == len(layers) * (len(layers) - 1) / 2
    said = [b for b, value in enumerate(adjacent.values) if value is not None]
    assert said == [layer.block for layer in layers[1:]]


def test_a_first_convolution_stands_before_the_blocks_of_a_network_of_maps():
    stems = {name: layers_of(BY_NAME[name].chain())[0] for name in ("timm-resnet", "hf-resnet", "torchvision-mobilenetv2")}
    assert {name: stem.place for name, stem in stems.items()} == {
        "timm-resnet": "conv1",
        "hf-resnet": "resnet.embedder.embedder.convolution",
        "torchvision-mobilenetv2": "features.0.0",
    }
