"""Statistics and what is read from them do not depend on the size of activations, from 1e-30 to 1e30 in single precision."""

import pytest
import torch

from delayer.activations.switches import Switches
from delayer.fitting.operators.affine import Affine
from delayer.fitting.operators.diagonal import Diagonal
from delayer.fitting.operators.drop import Drop
from delayer.fitting.operators.linear import Linear
from delayer.fitting.operators.low_rank import LowRank
from delayer.metrics.blocks import Layout, metrics
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.observing.stats.pair import relative_residual
from delayer.observing.stats.patch_moments import PatchMoments
from delayer.tasks.embeddings import likeness

SCALES = [1e-30, 1e-20, 1e-6, 1e6, 1e18, 1e30]
LAYOUT = Layout(num_points=2, groups=((0, 1),), rows=Rows("first"), outlets=(1,), layers=(0, 1), kinds=("Block",))


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(700, 6, generator=draw)
    return x, x @ torch.randn(6, 6, generator=draw) + 0.3 * torch.randn(700, 6, generator=draw)


def residuals(scale: float) -> list[float]:
    x, y = rows()
    stat = Moments([(0, 1)])
    for part in range(0, 700, 100):
        stat.update({0: x[part : part + 100] * scale, 1: y[part : part + 100] * scale}, torch.arange(part, part + 100))
    pair = stat.pair(0, 1)
    return [
        relative_residual(pair, *one.solve(pair)[:2])
        for one in (Drop(), Diagonal(ridge=1e-3), Linear(), Affine(ridge=1e-3), LowRank(rank=2, ridge=1e-3))
    ]


@pytest.mark.parametrize("scale", SCALES)
def test_residuals_of_every_operator(scale):
    assert residuals(scale) == pytest.approx(residuals(1.0), rel=1e-4)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "name",
    ["cka", "msrs", "adjacent_similarity", "relative_block_redundancy", "block_influence", "angular_distance", "magnitude_gap"],
)
def test_metrics_without_a_unit(name, scale):
    def values(scale):
        stat = metrics[name].stat(LAYOUT)
        stat.update({k: x * scale for k, x in enumerate(rows())}, torch.arange(700))
        found = metrics[name].read(stat, LAYOUT)
        return torch.tensor(list(found.values())) if isinstance(found, dict) else found

    torch.testing.assert_close(values(scale), values(1.0), rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("scale", SCALES)
def test_moments_of_layers_and_best_lines_of_activations(scale):
    x, y = rows()

    def weights(scale):
        stat = PatchMoments(None)
        stat.update(x * scale, y * scale)
        mean_x, mean_y, xx, xy, yy = stat.about("mean")
        return torch.linalg.solve(xx, xy)

    def line(scale):
        stat = Switches("relu")
        stat.update(x * scale, (x * scale).relu(), torch.arange(700))
        slope, _, residual, variance = stat.best_line()
        return torch.stack([slope, residual / variance])

    torch.testing.assert_close(weights(scale), weights(1.0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(line(scale), line(1.0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", SCALES)
def test_likeness_of_embeddings(scale):
    x, y = (one[:50] for one in rows())
    found, wanted = likeness(x * scale, y * scale), likeness(x, y)
    torch.testing.assert_close(found.cosines, wanted.cosines, rtol=1e-4, atol=1e-6)
    assert found.kl == pytest.approx(wanted.kl, rel=1e-4) and abs(wanted.pair_correlation) < 0.999
    assert found.pair_correlation == pytest.approx(wanted.pair_correlation, abs=1e-3)


def test_a_target_that_never_changes_is_met_or_missed_and_never_undefined():
    x, _ = rows()
    for target, wanted in ((torch.full_like(x, 3.0), 0.0), (torch.zeros_like(x), 0.0)):
        stat = Moments([(0, 1)])
        stat.update({0: x, 1: target}, torch.arange(700))
        pair = stat.pair(0, 1)
        assert relative_residual(pair, *Affine().solve(pair)[:2]) == wanted
        assert relative_residual(pair, *Drop().solve(pair)[:2]) == float("inf")
