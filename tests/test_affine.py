"""Laws of closed-form maps: never worse than dropping, exact where exactness is planted, judged as if run."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from delayer.errors import ModelError, PlanError, UnknownName
from delayer.families import chain_of
from delayer.fitting.affine import RIDGES, Fits
from delayer.fitting.operators import Operator, fit, operator_of, operators
from delayer.fitting.ridge import largest_as_good
from delayer.network.chain import Span
from delayer.observing.one_pass import observe, rows_of
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.observing.stats.pair import Pair, relative_residual, squared_error

D = 10


def made(name: str, rank: int | None = None, ridge: float | None = None) -> Operator:
    """An operator with those of the options that it takes."""
    given = {"rank": rank, "ridge": ridge}
    return operator_of(name, {key: value for key, value in given.items() if key in operators[name].model_fields})


def solve(pair, name, *, ridge=None, rank=None, fits=None):
    return made(name, rank, ridge).solve(pair, fits)


KINDS = [("affine", None), ("diagonal", None), ("low_rank", 1), ("low_rank", 4), ("low_rank", D - 1)]


def rows(num: int, seed: int, *, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """x and y [num, 10] of a crooked span: uneven directions, a mean, something that no map can follow."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x = torch.randn(num, D, generator=draw, dtype=torch.float64) * torch.logspace(-2, 0.5, D, dtype=torch.float64) + 3
    return x, x + 0.3 * x @ mix.T + noise * torch.randn(num, D, generator=draw, dtype=torch.float64) + (x**2).sin()


def pair_of(x: Tensor, y: Tensor) -> Pair:
    a, b = x - x.mean(0), y - y.mean(0)
    return Pair(len(x), x.mean(0), y.mean(0), a.T @ a, a.T @ b, b.T @ b)


def direct_error(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> float:
    return float(((x * weight if weight.ndim == 1 else x @ weight.T) + bias - y).square().sum())


@pytest.mark.parametrize(("operator", "rank"), KINDS)
@pytest.mark.parametrize("num_rows", [1, 2, 5, D, 200])
def test_on_its_own_rows_a_map_is_never_worse_than_dropping(operator, rank, num_rows):
    x, y = rows(num_rows, 0)
    pair = pair_of(x, y)
    dropped = direct_error(x, y, *solve(pair, "drop")[:2])
    for ridge in RIDGES:
        weight, bias, _ = solve(pair, operator, ridge=ridge, rank=rank)
        assert direct_error(x, y, weight, bias) <= dropped * (1 + 1e-9)
        assert weight.isfinite().all() and bias.isfinite().all()


def test_plain_least_squares_is_never_worse_than_dropping_either():
    for num_rows in (1, 5, D, 200):
        x, y = rows(num_rows, 0)
        assert direct_error(x, y, *solve(pair_of(x, y), "linear")[:2]) <= (y - x).square().sum() * (1 + 1e-9)


@pytest.mark.parametrize(("operator", "rank"), KINDS)
def test_no_map_of_its_kind_is_better(operator, rank):
    """The gradient of the ridge objective vanishes along every change that the kind allows."""
    x, y = rows(300, 1)
    pair, ridge = pair_of(x, y), 0.1
    a = made(operator, rank).module(D).double()
    weight, bias, factors = solve(pair, operator, ridge=ridge, rank=rank)
    with torch.no_grad():
        for name, parameter in a.named_parameters():
            parameter.copy_(bias if name == "bias" else (factors or {"weight": weight})[name])
    penalty = ridge * torch.trace(pair.xx) / D
    loss = (a(x) - y).square().sum() + penalty * (a.matrix - torch.eye(D)).square().sum()
    loss.backward()
    for parameter in a.parameters():
        assert parameter.grad.abs().max() < 1e-8 * loss.item()


def test_plain_least_squares_is_what_lstsq_gives():
    x, y = rows(300, 2)
    weight, bias, _ = solve(pair_of(x, y), "linear")
    torch.testing.assert_close(weight.T, torch.linalg.lstsq(x, y).solution, rtol=1e-9, atol=1e-9)
    assert (bias == 0).all()


def test_a_planted_affine_span_is_found_exactly():
    x, _ = rows(60, 3)
    weight, bias = torch.randn(D, D, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    pair = pair_of(x, x @ weight.T + bias)
    found = solve(pair, "affine")
    torch.testing.assert_close(found[0], weight, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(found[1], bias, rtol=1e-7, atol=1e-7)
    assert relative_residual(pair, *found[:2]) < 1e-12


@pytest.mark.parametrize("rank", [1, 3])
def test_a_planted_low_rank_update_is_found_exactly_at_its_rank(rank):
    x, _ = rows(60, 3)
    update = torch.randn(D, rank, dtype=torch.float64) @ torch.randn(rank, D, dtype=torch.float64)
    weight, bias, factors = solve(pair_of(x, x + x @ update.T + 1), "low_rank", rank=rank)
    torch.testing.assert_close(weight, torch.eye(D, dtype=torch.float64) + update, rtol=1e-6, atol=1e-6)
    u, v = factors["u"], factors["v"]
    torch.testing.assert_close(u @ v, update, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(u.norm(dim=0), v.norm(dim=1))


def test_more_rank_is_never_worse_and_the_last_one_is_next_to_nothing():
    pair = pair_of(*rows(200, 4))
    for ridge in (0.0, 0.1):
        errors = [squared_error(pair, *solve(pair, "low_rank", rank=r, ridge=ridge)[:2]) for r in range(1, D)]
        full = squared_error(pair, *solve(pair, "affine", ridge=ridge)[:2])
        if ridge == 0:
            assert errors == sorted(errors, reverse=True)
        assert full <= errors[-1] <= full * 1.001


def test_a_planted_diagonal_is_found_exactly():
    x, _ = rows(60, 3)
    scale = torch.rand(D, dtype=torch.float64)
    weight, bias, _ = solve(pair_of(x, x * scale + 2), "diagonal")
    torch.testing.assert_close(weight, scale)
    torch.testing.assert_close(bias, torch.full((D,), 2.0, dtype=torch.float64))


def test_heavy_ridge_ends_at_dropping_and_a_mean_shift():
    pair = pair_of(*rows(200, 5))
    for operator, rank in KINDS:
        weight, bias, _ = solve(pair, operator, ridge=1e12, rank=rank)
        identity = torch.ones(D) if operator == "diagonal" else torch.eye(D)
        torch.testing.assert_close(weight, identity.double())
        torch.testing.assert_close(bias, pair.mean_y - pair.mean_x)


def test_directions_that_no_row_showed_are_left_alone():
    """Five rows in ten dimensions; single precision's noise must not count as a direction."""
    x, y = rows(5, 6)
    exact, single = pair_of(x, y), pair_of(x.float(), y.float())
    single = replace(
        single,
        **{n: getattr(single, n).double() for n in ("mean_x", "mean_y", "xx", "xy", "yy")},
        rounding=16 * torch.finfo(torch.float32).eps,
    )
    unseen = torch.linalg.svd(x - x.mean(0)).Vh[5:]
    for pair in (exact, single):
        update = solve(pair, "affine")[0] - torch.eye(D)
        assert (update @ unseen.T).abs().max() < 1e-3 * update.abs().max()


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-6])
def test_the_error_from_moments_is_the_error_of_running_the_map(gap):
    (x, y), (x2, y2) = rows(200, 7), rows(90, 8)
    y, y2 = x + gap * (y - x), x2 + gap * (y2 - x2)
    fitted, held = pair_of(x, y), pair_of(x2, y2)
    for operator, rank in [*KINDS, ("linear", None), ("drop", None)]:
        weight, bias, _ = solve(fitted, operator, ridge=0.01, rank=rank)
        direct = direct_error(x2, y2, weight, bias)
        assert squared_error(held, weight, bias) == pytest.approx(direct, rel=1e-13 / gap**2 + 1e-9)
        assert relative_residual(held, weight, bias) * float((y2 - y2.mean(0)).square().sum()) == pytest.approx(
            direct, rel=1e-13 / gap**2 + 1e-9
        )


def test_the_ridge_chosen_on_other_rows_is_the_best_of_all():
    for num_rows, seed in ((12, 0), (15, 1), (40, 2), (1000, 3)):
        fitted, held = pair_of(*rows(num_rows, seed)), pair_of(*rows(500, 99))
        fits = Fits(fitted)
        errors = {r: squared_error(held, *solve(fitted, "affine", ridge=r)[:2]) for r in RIDGES}
        assert fits.best_ridge(fitted, held, RIDGES) == min(errors, key=errors.get)


def test_fits_from_one_point_share_their_decomposition_and_change_nothing():
    x, y = rows(100, 1)
    first, second = pair_of(x, y), pair_of(x, y * 2 + x.sin())
    for bias, kinds in ((True, KINDS), (False, [("linear", None)])):
        shared = Fits(first, bias=bias)
        for operator, rank in kinds:
            alone = solve(second, operator, ridge=0.01, rank=rank)[0]
            torch.testing.assert_close(solve(second, operator, ridge=0.01, rank=rank, fits=shared)[0], alone)
    # One of the wrong kind is not used.
    torch.testing.assert_close(solve(second, "linear", fits=Fits(first))[0], solve(second, "linear")[0])


def test_a_target_that_never_changes():
    x, _ = rows(20, 0)
    still = pair_of(x, torch.ones_like(x))
    assert relative_residual(still, *solve(still, "affine")[:2]) == 0
    assert relative_residual(still, *solve(still, "drop")[:2]) == float("inf")


@pytest.mark.parametrize(("operator", "rank"), [*KINDS, ("linear", None)])
@pytest.mark.parametrize("shape", [(4, D), (2, 5, D), (2, D, 7), (2, D, 3, 4), (2, 3, 4, D)], ids=str)
def test_a_map_is_its_matrix_on_every_shape(operator, rank, shape):
    axis = shape.index(D) if len(shape) > 2 and shape[1] == D else -1
    map_ = fit(pair_of(*rows(100, 0)), made(operator, rank, 0.01), axis=axis)
    x = torch.randn(shape)
    bias = torch.zeros(D) if map_.bias is None else map_.bias
    expected = (x.movedim(axis, -1) @ map_.matrix.T + bias).movedim(-1, axis)
    torch.testing.assert_close(map_(x), expected, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in map_.parameters()) == made(operator, rank).num_params(D)


def test_a_new_map_is_the_identity():
    x = torch.randn(3, D)
    for operator, rank in KINDS:
        torch.testing.assert_close(made(operator, rank).module(D)(x), x)


def test_wrong_maps_are_refused():
    with pytest.raises(UnknownName, match="There is no operator 'cubic'.*Known: affine, conv, diagonal, drop"):
        operator_of("cubic")
    with pytest.raises(PlanError, match="rank 4 was asked for where the width is 4. Use a rank between 1 and 3"):
        operator_of("low_rank", {"rank": 4}).module(4)
    for wrong in ({}, {"rank": 0}, {"rank": "3"}, {"rank": 2, "ridge": -1.0}):
        with pytest.raises(PlanError, match="The operator low_rank was given options that do not do: (rank|ridge): "):
            operator_of("low_rank", wrong)
    with pytest.raises(PlanError, match=r"The operator affine has no option rank \(rank=3 was given\); it takes ridge"):
        operator_of("affine", {"rank": 3})


@pytest.mark.data
def test_rba_on_real_activations_is_what_lstsq_gives(data_root):
    """DeiT-tiny, all tokens of 50 images; early, middle and late spans."""
    from delayer.store import load
    from delayer.tasks import TaskOptions, open_task

    model = load("timm:deit_tiny_patch16_224", weights=data_root / "weights/deit_tiny_patch16_224.safetensors")
    options = TaskOptions(num_fit=50, num_validation=1, num_test=1, batch_size=25)
    batches = open_task(f"imagefolder:{data_root}/images/imagenet_train_1000", model, options).batches("fit")
    chain = chain_of(model)
    ends = [chain.ends(Span.parse(span)) for span in ("0:1", "4:7", "10:12")]
    [moments] = observe(chain, batches, [Moments(ends, exact=True)])
    seen = [rows_of(chain, {Rows(): {p for pair in ends for p in pair}}, batch, 0)[Rows()] for batch in batches]
    for before, after in ends:
        x, y = (torch.cat([rows[point] for rows in seen]).double() for point in (before, after))
        expected = torch.linalg.lstsq(x, y).solution
        found = solve(moments.pair(before, after), "linear")[0].T
        assert (found - expected).norm() <= 1e-6 * expected.norm()
        assert (x @ (found - expected)).norm() <= 1e-6 * (x @ expected).norm()


REFUSED = {
    "constant features": (lambda x, y: (x * 0 + 3, y), "the features that enter it never change"),
    "constant but for rounding": (lambda x, y: (3 + 1e-8 * x, y), "the features that enter it never change"),
    "a constant target": (lambda x, y: (x, y * 0 - 2), "the features that it should give never change"),
    "features near 1e-30": (lambda x, y: (1e-30 * x, y), "the features that enter it are all but zero .[1-9]e-30 on average."),
    "a target near 1e-30": (lambda x, y: (x, 1e-30 * y), "the features that it should give are all but zero"),
    "zeros": (lambda x, y: (x * 0, y), "the features that enter it are all but zero .0e.00 on average."),
    "infinity": (lambda x, y: (x / 0, y), "the features hold NaN or infinity"),
    "NaN": (lambda x, y: (x, y * float("nan")), "the features hold NaN or infinity"),
    "squares beyond float64": (lambda x, y: (x * 1e160, y), "the features hold NaN or infinity, or their squares do"),
}


@pytest.mark.parametrize("operator", ["affine", "diagonal", "low_rank", "linear"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_map_of_features_that_tell_nothing_is_refused_in_one_sentence(case, operator):
    change, said = REFUSED[case]
    with pytest.raises(ModelError, match=f"No {operator} map can be fitted here: {said}.*Drop this span, or choose another."):
        fit(pair_of(*change(*rows(50, 0))), made(operator, 3))


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_small_and_large_features_are_fitted_alike(scale):
    x, y = rows(200, 0)
    one, other = (fit(pair_of(k * x, k * y), made("affine")) for k in (1.0, scale))
    torch.testing.assert_close(other.weight, one.weight, rtol=1e-4, atol=1e-5)


def test_of_ridges_that_tie_the_largest_is_taken():
    x, _ = rows(200, 0)
    same = pair_of(x, x)
    assert Fits(same).best_ridge(same, same, RIDGES) == max(RIDGES)


@pytest.mark.parametrize(
    "errors, allowed, ridge",
    [
        ({0.0: 3.0, 0.1: 2.0, 1.0: 2.5}, {}, 0.1),
        ({0.0: 2.0, 0.1: 2.0, 1.0: 2.5}, {}, 0.1),
        ({0.0: 2.0, 0.1: 2.05, 1.0: 2.07}, {"share": 0.03}, 0.1),
        ({0.0: 2.0, 0.1: 2.05, 1.0: 2.07}, {"slack": 0.07}, 1.0),
        ({0.0: math.nan, 0.1: 2.0, 1.0: math.inf}, {"share": 0.03}, 0.1),
        ({0.0: math.nan, 0.1: math.nan}, {"slack": 0.1}, 0.1),
    ],
)
def test_the_largest_ridge_that_is_as_good_is_taken(errors, allowed, ridge):
    assert largest_as_good(errors, **allowed) == ridge
