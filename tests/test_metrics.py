"""Laws of the redundancy metrics, which see statistics alone."""

import math

import pytest
import torch
from torch import Tensor

from delayer.metrics.blocks import Layout, metrics
from delayer.metrics.blocks.cka import cka_of
from delayer.observing.rows import Rows
from delayer.observing.stats.hsic import hsic_of

LAYOUT = Layout(
    num_points=5, groups=((0, 1, 2), (3, 4)), rows=Rows("first"), outlets=(1, 2, 4), layers=(1, 2, 4), kinds=("Block",) * 3
)
NUM = 40


def points() -> list[Tensor]:
    """Five points [40, width]: block 0 is the identity, point 3 begins a wider segment."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(NUM, 6, generator=draw)
    y = x + 0.5 * torch.randn(NUM, 6, generator=draw)
    z = torch.randn(NUM, 9, generator=draw)
    return [x, x.clone(), y, z, z * 3]


def values(name: str, features: list[Tensor] | None = None) -> Tensor:
    metric, features = metrics[name], points() if features is None else features
    stat = metric.stat(LAYOUT)
    stat.update(dict(enumerate(features)), torch.arange(len(features[0])))
    return metric.read(stat, LAYOUT)


@pytest.mark.parametrize("name", list(metrics))
def test_every_metric_is_finite_where_it_has_something_to_say(name):
    metric, found = metrics[name], values(name)
    if metric.shape == "network":
        assert all(math.isfinite(number) for number in found.values())
        return
    assert found.dtype == torch.float64
    assert metric.title and metric.source and metric.redundant in ("high", "low")
    spans = [(0, 1), (0, 2), (1, 2), (3, 4)]
    if metric.shape == "pairs":
        assert found.shape == (5, 5) and found.isfinite().all()
        torch.testing.assert_close(found, found.T)
    elif metric.shape == "spans":
        said = torch.zeros(5, 5, dtype=torch.bool)
        for i, j in spans:
            said[i, j] = True
        assert torch.equal(found.isfinite(), said)


@pytest.mark.parametrize("name", [n for n, m in metrics.items() if m.shape in ("pairs", "spans")])
def test_an_identity_block_is_the_most_redundant_there_is(name):
    found = values(name)
    sign = 1 if metrics[name].redundant == "high" else -1
    assert found[0, 1] == pytest.approx({"cka": 1.0}.get(name, 0.0), abs=2e-8)
    assert sign * found[0, 1] >= sign * found[0, 2]


def test_block_redundancy_is_the_mean_squared_distance_and_zero_for_an_identity():
    x = points()
    assert values("block_redundancy")[0, 1] == 0 == values("relative_block_redundancy")[0, 1]
    distance = (x[2] - x[1]).double().square().sum(1).mean()
    assert float(values("block_redundancy")[1, 2]) == pytest.approx(-float(distance))
    energy = x[1].double().square().sum(1).mean()
    assert float(values("relative_block_redundancy")[1, 2]) == pytest.approx(-float(distance / energy))
    assert float(values("block_redundancy")[0, 2]) == pytest.approx(-float(distance))  # a span, over the identity


def test_relative_block_redundancy_does_not_depend_on_scale_and_absolute_does():
    scaled = [100 * x for x in points()]
    one, two = values("relative_block_redundancy"), values("relative_block_redundancy", scaled)
    torch.testing.assert_close(one, two, equal_nan=True, rtol=1e-5, atol=0)
    growth = values("block_redundancy", scaled)[1, 2] / values("block_redundancy")[1, 2]
    assert float(growth) == pytest.approx(1e4, rel=1e-5)


def test_block_influence_and_angular_distance_of_known_angles():
    x = torch.tensor([[1.0, 0, 0, 0, 0, 0]]).repeat(NUM, 1)
    y = torch.tensor([[0.5, 3**0.5 / 2, 0, 0, 0, 0]]).repeat(NUM, 1)
    z = torch.randn(NUM, 9)
    assert float(values("block_influence", [x, y, -x, z, z])[0, 1]) == pytest.approx(0.5, abs=1e-6)
    assert float(values("angular_distance", [x, y, -x, z, z])[0, 1]) == pytest.approx(1 / 3, abs=1e-6)
    assert float(values("angular_distance", [x, y, -x, z, z])[0, 2]) == pytest.approx(1)
    assert float(values("block_influence", [x, y, 7 * x, z, z])[0, 2]) == pytest.approx(0, abs=1e-12)


def test_the_magnitude_gap_is_the_log_of_how_much_larger_the_state_became():
    x = torch.randn(NUM, 9)
    found = values("magnitude_gap", [x, -x, 3 * x, x, x])
    assert float(found[0, 1]) == 0 and float(found[1, 2]) == float(found[0, 2]) == pytest.approx(math.log(3))


def test_cka_has_ones_on_the_diagonal_and_at_most_one_elsewhere():
    found = values("cka")
    assert (found.diagonal() == 1).all() and found.abs().max() <= 1 + 1e-12
    assert found[0, 1] == pytest.approx(1) and found[3, 4] == pytest.approx(1)
    assert abs(float(found[0, 3])) < 0.2  # unrelated features


def test_cka_is_unchanged_by_rotation_scaling_and_shift():
    x = [p.double() for p in points()]
    turned = [5 * p @ torch.linalg.qr(torch.randn(p.shape[1], p.shape[1], dtype=p.dtype)).Q + 3 for p in x]
    torch.testing.assert_close(values("cka", turned), values("cka", x), rtol=0, atol=1e-10)


def test_cka_is_the_mean_of_batches_before_the_quotient():
    x = [torch.randn(600, 6, dtype=torch.float64) for _ in range(5)]
    x[1] += x[0]
    hsic = sum(len(p[0]) * hsic_of(p) for p in zip(*(f.split(256) for f in x), strict=True)) / 600
    torch.testing.assert_close(values("cka", x), hsic / torch.outer(*[hsic.diagonal().sqrt()] * 2))


def test_cka_of_constant_features_and_tiny_data_is_defined():
    x = points()
    x[1] = torch.full_like(x[1], 0.3)
    found = values("cka", x)
    assert found[1].tolist() == [0, 1, 0, 0, 0]
    assert torch.equal(found[[0, 2]][:, [0, 2]], values("cka")[[0, 2]][:, [0, 2]])
    for num in (1, 3):
        assert torch.equal(values("cka", [p[:num] for p in points()]), torch.eye(5, dtype=torch.float64))
    for num in (4, 5):
        assert values("cka", [p[:num] for p in points()]).isfinite().all()
    assert cka_of(torch.zeros(2, 3, 3)).isfinite().all()


@pytest.mark.parametrize("name", list(metrics))
def test_every_metric_warns_under_the_fewest_samples_that_it_states_and_not_from_there_on(name):
    metric = metrics[name]
    assert metric.fewest >= 4

    def warnings(num: int) -> tuple[str, ...]:
        draw = torch.Generator().manual_seed(0)
        stat = metric.stat(LAYOUT)
        stat.update({k: torch.randn(num, 6, generator=draw) for k in range(5)}, torch.arange(num))
        return metric.warn(stat, LAYOUT)

    assert not warnings(metric.fewest)
    for num in (1, 3, 4, metric.fewest - 1):
        assert len(warnings(num)) == 1 and "--num-fit" in warnings(num)[0], num


def test_what_cka_and_msrs_say_of_too_little_data():
    def said(name, num, constant=False):
        stat = metrics[name].stat(LAYOUT)
        draw = torch.Generator().manual_seed(0)
        rows = {k: torch.randn(num, 6, generator=draw) for k in range(5)}
        stat.update(rows | ({2: torch.ones(num, 6)} if constant else {}), torch.arange(num))
        return " ".join(metrics[name].warn(stat, LAYOUT))

    assert "no unbiased estimate under 4 samples and found 3, so its zeros mean nothing" in said("cka", 3)
    assert "from 8 samples; under 32 it is mostly chance" in said("cka", 8)
    assert "1 of 5 points (the first is number 2) are the same for all samples" in said("cka", 40, constant=True)
    assert "interval of MSRS is from 2 batches" in said("msrs", 512) and "from 3 batches" in said("msrs", 768)
    assert "Block Redundancy was read from 5 samples; under 16" in said("block_redundancy", 5)


def test_unrelated_features_are_as_unlike_as_the_fewest_samples_promise():
    draw = torch.Generator().manual_seed(0)
    for num, spread in ((metrics["cka"].fewest, 0.05), (8, 0.22)):
        pairs = [torch.randn(2, num, 5, generator=draw, dtype=torch.float64) for _ in range(300)]
        found = torch.stack([cka_of(hsic_of(list(pair)))[0, 1] for pair in pairs])
        assert found.std() == pytest.approx(spread, rel=0.25) and abs(found.mean()) < 0.04


def test_activations_of_any_size_give_finite_values():
    for size in (1e-30, 1e30, 0.0):
        for name in (n for n, m in metrics.items() if m.shape in ("pairs", "spans")):
            found = values(name, [x.double() * size for x in points()])
            assert not found[0, 1].isnan() and not found[1, 2].isnan()
