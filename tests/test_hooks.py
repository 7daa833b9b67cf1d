"""Hooks leave no trace, and a batch norm is read in one place."""

import pytest
import torch
from torch import nn

from delayer.errors import ModelError
from delayer.fitting.batch_norm import fold, unfold_
from delayer.merging.reading import read
from delayer.network.handing import items_of
from delayer.network.hooks import hooked
from delayer.network.inside_block import Run
from delayer.network.norms import scale_and_shift


def test_hooks_run_in_the_order_given_and_go_away():
    layer, seen = nn.Linear(2, 2), []
    before = [(layer, lambda module, args, kwargs, k=k: seen.append(k)) for k in (0, 1)]
    with hooked(before=before, after=[(layer, lambda module, args, output: seen.append(output.shape))]):
        layer(torch.zeros(3, 2))
    assert seen == [0, 1, (3, 2)]
    layer(torch.zeros(3, 2))
    assert len(seen) == 3


def test_hooks_go_away_after_an_exception_and_where_the_last_of_them_cannot_be_set():
    layer = nn.Linear(2, 2)

    def stop(module, args, kwargs):
        raise KeyError

    with pytest.raises(KeyError), hooked(before=[(layer, stop)]):
        layer(torch.zeros(3, 2))
    with pytest.raises(AttributeError), hooked(before=[(layer, stop), (None, stop)]):
        pass
    assert layer(torch.zeros(3, 2)).shape == (3, 2)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}, {"eps": 0.1}], ids=str)
def test_a_norm_is_one_scale_and_one_shift(options):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, **options).double()
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2)
    x, layer = torch.randn(4, 5, 3, 3).double(), nn.Conv2d(5, 5, 1).double()
    norm.eval()
    scale, shift = scale_and_shift(norm)
    assert torch.allclose(x * scale[:, None, None] + shift[:, None, None], norm(x), atol=1e-12)
    assert torch.equal(read(norm, 2).weight.flatten(), scale)
    weight, bias = fold(layer, norm)
    assert torch.allclose(nn.functional.conv2d(x, weight[..., None, None], bias), norm(layer(x)), atol=1e-12)
    weight, bias = torch.randn(5, 5).double(), torch.randn(5).double()
    unfold_(layer, norm, weight, bias, torch.randn(5).double(), torch.rand(5).double())
    for found, expected in zip(fold(layer, norm), (weight, bias), strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


def test_a_norm_without_statistics_is_no_fixed_map():
    assert scale_and_shift(nn.BatchNorm1d(3, track_running_stats=False)) is None


def test_a_block_without_layers_has_no_ending():
    with pytest.raises(ModelError, match="ran no Linear or Conv2d.*Choose another block"):
        _ = Run(before=torch.zeros(1)).ending


def test_what_is_no_answer_of_a_block_is_said():
    with pytest.raises(ModelError, match="A block answered with a float where delayer needs a tensor.*Choose other blocks"):
        items_of(3.0)
