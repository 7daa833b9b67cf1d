"""A layer solved from few rows is the one solved from their moments."""

import pytest
import torch

from delayer.fitting.few_rows import Dual, FewRows
from delayer.fitting.layer import best_ridge, layer_error, solve_layer
from delayer.observing.stats.patch_moments import PatchMoments


def filled(num: int = 60, width: int = 90, out: int = 11) -> tuple[list, list]:
    """Rows and moments of the same four fifths, then of the same rest; one input never changes, one is large."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, width, generator=generator)
    x[:, 7], x[:, 8] = 0, 30 * x[:, 8]
    y = x @ torch.randn(width, out, generator=generator) / 5 + torch.randn(num, out, generator=generator) + 3
    found = []
    for kind in (FewRows, lambda: PatchMoments(precision="exact")):
        fit, heldout = kind(), kind()
        keep = torch.ones(1, num, dtype=torch.bool)
        keep[:, 3] = False  # a position that does not count
        for part in (slice(0, 20), slice(20, 45)):
            fit.update(x[None, part], y[None, part], keep[:, part])
        heldout.update(x[None, 45:], y[None, 45:])
        found.append([fit, heldout])
    return found[0], found[1]


@pytest.mark.parametrize("bias", [True, False])
def test_the_same_layer_error_and_ridge_as_from_moments(bias):
    (rows, rest), (moments, others) = filled()
    weight = torch.randn(11, 90, generator=torch.Generator().manual_seed(1)) / 10
    assert rows.num_rows == moments.num_rows == 44 and rest.num_rows == 15
    errors = Dual(rows, weight, bias=bias).errors(rest)
    for ridge in (1e-6, 1e-2, 0.3, 1.0):
        one, two = solve_layer(rows, weight, ridge=ridge, bias=bias), solve_layer(moments, weight, ridge=ridge, bias=bias)
        torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-8)
        assert errors(ridge) == pytest.approx(layer_error(others, *two), rel=1e-7)
    assert best_ridge(rows, rest, weight, bias=bias) == best_ridge(moments, others, weight, bias=bias)
    rows.merge(rest)
    moments.merge(others)
    one, two = solve_layer(rows, weight, ridge=0.1, bias=bias), solve_layer(moments, weight, ridge=0.1, bias=bias)
    torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-8)


def test_moments_of_kept_rows_are_the_moments():
    (rows, _), (moments, _) = filled()
    index = torch.tensor([0, 8, 40])
    for some, other in ((rows, moments), (rows.only(index), moments.only(index))):
        for one, two in zip(some.about("mean"), other.about("mean"), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-4)


def test_without_a_ridge_rows_are_met_where_they_can_be():
    (rows, _), _ = filled()
    weight, bias = solve_layer(rows, torch.zeros(11, 90), ridge=0.0)
    torch.testing.assert_close(rows.x.double() @ weight.T + bias, rows.y.double(), rtol=1e-5, atol=1e-5)
