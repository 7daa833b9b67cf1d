"""Metrics of single activations, against slow literal twins and known distributions."""

import math

import pytest
import torch
from torch import nn

from delayer.activations.normal import Normal, from_norm
from delayer.activations.switches import Switches
from delayer.metrics.activations import site_metrics
from delayer.metrics.activations.affine_fit import affine_fit
from delayer.metrics.activations.easier import easier, easier_released
from delayer.metrics.activations.egp import egp
from delayer.metrics.activations.nepenthe import nepenthe
from delayer.metrics.activations.tlc import collapse_error, tlc, tlc_seen

FUNCTIONS = {
    "relu": torch.relu,
    "relu6": nn.functional.relu6,
    "gelu": nn.functional.gelu,
    "hardswish": nn.functional.hardswish,
    "leaky_relu": nn.functional.leaky_relu,
}


def seen(z: torch.Tensor, kind: str = "relu", batch_size: int = 128) -> Switches:
    """Statistics of inputs [samples, channels]."""
    stat = Switches(kind, batch_size)
    stat.update(z, FUNCTIONS[kind](z), torch.arange(len(z)))
    return stat


def drawn(num: int = 300, channels: int = 7) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(num, channels, generator=draw, dtype=torch.float64) + torch.linspace(-4, 4, channels)
    z[::5] = 0
    return z


def h2(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


# p = 0, 1/4, 1/2, 1
KNOWN = torch.tensor([[-1.0, -1, -1, 1], [-2, -1, 1, 2], [-3, -1, -1, 3], [-4, 1, 1, 4]])


def test_entropy_of_known_shares():
    """p = (0, ¼, ½, 1) → (0, 0.8113, 1, 0)."""
    for k, expected in enumerate((0, 0.8112781, 1, 0)):
        for metric in (egp, nepenthe, easier, easier_released):
            assert metric(seen(KNOWN[:, k : k + 1])) == pytest.approx(expected, abs=1e-7)
    mean, active = (0.8112781 + 1) / 4, (0.8112781 + 1) / 2
    assert easier(seen(KNOWN)) == easier_released(seen(KNOWN)) == pytest.approx(mean)
    assert nepenthe(seen(KNOWN)) == egp(seen(KNOWN)) == pytest.approx(active)


def test_the_released_code_has_two_states_where_a_saturating_activation_has_four():
    z = torch.tensor([[-5.0], [-1], [1], [5], [-6]])
    assert seen(z, "hardswish").counts()[:, 0].tolist() == [1, 0, 1, 1, 2]
    assert easier_released(seen(z, "hardswish")) == pytest.approx(h2(0.4))


def literal_egp(z, size=128):
    layer = []
    for k in range(0, len(z), size):
        shares = [sum(float(v) > 0 for v in column) / len(column) for column in z[k : k + size].T]
        mixed = [h2(p) for p in shares if 0 < p < 1]
        layer.append(sum(mixed) / len(mixed) if mixed else 0.0)
    return sum(layer) / len(layer)


def literal_signs(z):
    found = []
    for column in z.T:
        on, off = sum(float(v) > 0 for v in column), sum(float(v) < 0 for v in column)
        found.append(h2(on / (on + off)) if on + off else 0.0)
    return found


def literal_nepenthe(z):
    found = [h for h in literal_signs(z) if h > 0]
    return sum(found) / len(found) if found else 0.0


def literal_easier(z):
    return sum(literal_signs(z)) / z.shape[1]


def literal_released(z, size=128):
    batches = [
        [h2(sum(float(v) >= 0 for v in column) / len(column)) for column in z[k : k + size].T] for k in range(0, len(z), size)
    ]
    return sum(sum(b) / len(b) for b in batches) / len(batches)


def literal_affine(z):
    left = total = 0.0
    for column in z.T:
        y = torch.relu(column)
        design = torch.stack([column, torch.ones_like(column)], 1)
        line = torch.linalg.lstsq(design, y[:, None]).solution
        left += float((design @ line - y[:, None]).square().sum())
        total += float((y - y.mean()).square().sum())
    return left / total


def literal_tlc_seen(z):
    errors = [0.5 * math.erfc(float(abs(c.mean()) / c.std(correction=0)) / math.sqrt(2)) for c in z.T]
    return sum(errors) / len(errors)


LITERAL = {
    "egp": literal_egp,
    "nepenthe": literal_nepenthe,
    "easier": literal_easier,
    "easier_released": literal_released,
    "affine_fit": literal_affine,
    "tlc_seen": literal_tlc_seen,
}
SWITCHES = [name for name, metric in site_metrics.items() if metric.reads == "switches"]


@pytest.mark.parametrize("name", SWITCHES)
def test_equals_its_literal_twin(name):
    assert site_metrics[name].value(seen(drawn())) == pytest.approx(LITERAL[name](drawn()), rel=1e-9)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("split", [1, 50, 299])
def test_any_batch_split_gives_the_same(name, split):
    stat, z = Switches("relu"), drawn()
    for ids in torch.arange(len(z)).split(split):
        stat.update(z[ids], torch.relu(z[ids]), ids)
    assert site_metrics[name].value(stat) == pytest.approx(site_metrics[name].value(seen(z)), rel=1e-9)


@pytest.mark.parametrize("name", site_metrics)
def test_units_that_never_switch_score_zero(name):
    metric = site_metrics[name]
    for sign in (1, -1):
        stat = seen(sign * (drawn().abs() + 9))
        assert metric.value(stat.normal() if metric.reads == "normal" else stat) == pytest.approx(0, abs=1e-9)
        assert metric.title and metric.source


@pytest.mark.parametrize("name", site_metrics)
@pytest.mark.parametrize("constant", [-0.3, 0.0, 0.1, 1e6])
def test_channels_that_are_constant_have_a_defined_score(name, constant):
    metric, stat = site_metrics[name], seen(torch.full((50, 3), constant))
    assert metric.value(stat.normal() if metric.reads == "normal" else stat) == 0
    mixed = torch.cat([torch.full((300, 1), constant, dtype=torch.float64), drawn()], 1)
    stat = seen(mixed)
    assert 0 < metric.value(stat.normal() if metric.reads == "normal" else stat) < 1


def test_inputs_at_zero_decide_nothing_in_the_papers_and_are_on_in_easiers_code():
    z = torch.tensor([[0.0], [0], [1], [-1]])
    assert easier(seen(z)) == nepenthe(seen(z)) == 1
    assert egp(seen(z)) == easier_released(seen(z)) == pytest.approx(h2(0.25))  # egp: ON is z > 0; the code: z ≥ 0
    assert easier(seen(z), "released") == easier_released(seen(z))
    z = torch.tensor([[0.0], [0], [0], [1]])
    assert easier(seen(z)) == easier_released(seen(z)) == 0 and egp(seen(z)) == pytest.approx(h2(0.25))


def test_a_saturated_relu6_is_not_linear():
    z = torch.tensor([[1.0], [3], [7], [9]])
    assert easier(seen(z)) == 0  # a ReLU is linear there
    for metric in (egp, nepenthe, easier):
        assert metric(seen(z, "relu6")) == 1
    assert easier_released(seen(z, "relu6")) == 0  # the released code does not see it
    assert affine_fit(seen(z, "relu6")) > 0.05 and affine_fit(seen(z)) == 0
    assert easier(seen(z + 6, "relu6")) == 0  # always at 6: a constant


def test_hardswish_has_outer_pieces_on_both_sides():
    z = torch.tensor([[-5.0], [-1], [1], [5]])
    assert seen(z, "hardswish").counts()[:, 0].tolist() == [1, 0, 1, 1, 1]
    assert easier(seen(z, "hardswish")) == 2
    assert easier(seen(z[:1], "hardswish")) == 0


def test_smooth_activations_are_judged_by_their_best_line():
    """The sign calls a GELU around 0.5 alike with one around 3, which is all but linear."""
    z = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2
    assert affine_fit(seen(z + 4, "gelu")) < 1e-6 < 1e-3 < affine_fit(seen(z, "gelu"))
    assert affine_fit(seen(z + 1, "leaky_relu")) < 1e-6


def test_the_best_line_says_what_its_error_is():
    z = drawn()
    scale, shift, residual, variance = seen(z, "gelu").best_line()
    y = nn.functional.gelu(z)
    torch.testing.assert_close(residual, (scale * z + shift - y).square().mean(0), rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(variance, y.var(0, correction=0))
    for step in (0.01, -0.01):
        assert ((scale + step) * z + shift - y).square().mean() > residual.mean()
        assert (scale * z + shift + step - y).square().mean() > residual.mean()


# -- TLC ------------------------------------------------------------------------------------------------------------------


def test_the_probability_is_the_sign_frequency_of_normal_samples():
    """From norm parameters, also negative ones: inputs are Normal(β, γ²)."""
    norm = nn.BatchNorm1d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1, 0.5, 2, -3, 0.1]))
        norm.bias.copy_(torch.tensor([0.0, 0.3, -0.4, 1, -2, 0.05]))
    z = torch.randn(400_000, 6, generator=torch.Generator().manual_seed(0)) * norm.weight + norm.bias
    z = z.detach().double()
    normal = from_norm(norm)
    torch.testing.assert_close(normal.p_off().float(), (z <= 0).float().mean(0), rtol=0, atol=4e-3)
    wrong = torch.where(normal.mostly_on(), z < 0, z > 0).float().mean(0)
    torch.testing.assert_close(collapse_error(normal).float(), wrong, rtol=0, atol=4e-3)
    torch.testing.assert_close(seen(z, batch_size=10**6).normal().p_off(), normal.p_off(), rtol=0, atol=4e-3)
    assert tlc(normal) == pytest.approx(float(collapse_error(normal).mean()))
    assert tlc_seen(seen(z, batch_size=10**6)) == pytest.approx(tlc(normal), abs=3e-3)


def test_a_norm_that_scales_by_zero_has_a_certain_sign():
    """γ = 0: P(OFF) is 1 where β ≤ 0, else 0."""
    normal = Normal(torch.tensor([-1.0, 0, 2]).double(), torch.zeros(3).double())
    assert normal.p_off().tolist() == [1, 1, 0] and normal.mostly_on().tolist() == [False, False, True]
    assert tlc(normal) == 0


def test_a_norm_without_parameters_is_standard_normal():
    normal = from_norm(nn.BatchNorm2d(3, affine=False))
    assert normal.p_off().tolist() == [0.5] * 3 and tlc(normal) == 0.5


def test_the_units_that_are_mostly_on_are_those_with_more_inputs_above_zero():
    assert seen(torch.tensor([[1.0, -1, 7], [1, -1, 7], [-9, 9, 7]]), "relu6").mostly_on().tolist() == [True, False, True]
