"""Passes over data in bfloat16: faster where the machine is, and never in what looks on or proves."""

import pytest
import torch
from torch import nn

import delayer
from delayer.errors import ModelError
from delayer.network.hooks import hooked
from delayer.network.precision import faster_precision, multiply_in_, multiplying, precision_of
from delayer.stages.work import multiply_as_asked_
from delayer.tasks import predictions, task_of


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Squares().eval()


@pytest.fixture
def split():
    torch.manual_seed(1)
    return task_of([(torch.randn(8, 16), torch.randint(0, 4, (8,))) for _ in range(2)], kind="image-classification").batches(
        "fit"
    )


def test_a_noted_network_multiplies_in_bfloat16_in_passes_alone(model, split):
    x = split[0].inputs
    plain, before = predictions(model, split).values, model(x)
    multiply_in_(model, "bfloat16")
    near = predictions(model, split).values
    assert not torch.equal(near, plain)
    assert torch.allclose(near, plain, atol=0.05)
    assert torch.equal(predictions(model, split, exact=True).values, plain)
    assert torch.equal(model(x), before)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_what_looks_on_multiplies_in_its_own_precision(model, split):
    x, seen = split[0].inputs, []
    multiply_in_(model, "bfloat16")

    def look(module, args, output):
        seen.append((output.dtype, args[0].float() @ args[0].float().T))

    with hooked(after=[(model.first, look)]), multiplying(model):
        model(x)
    assert seen[0][0] == torch.bfloat16
    assert torch.equal(seen[0][1], x @ x.T)


def test_copies_go_on_in_the_same_precision_and_other_names_are_refused(model):
    import copy

    assert precision_of(model) == "float32"
    multiply_in_(model, "bfloat16")
    assert precision_of(copy.deepcopy(model)) == "bfloat16"
    with pytest.raises(ModelError, match="int8"):
        multiply_in_(model, "int8")


def test_the_faster_precision_is_measured_once():
    device = torch.device("cpu")
    found = faster_precision(device)
    assert found == faster_precision(device)
    assert found[0] == ("bfloat16" if found[1] >= 1.5 else "float32")


def test_a_fit_from_halves_is_the_fit_of_the_same_numbers_in_full():
    from delayer.observing.stats.patch_moments import PatchMoments

    torch.manual_seed(0)
    x, y = torch.randn(4, 50, 900).bfloat16(), torch.randn(4, 50, 3)
    half, full = PatchMoments(), PatchMoments(precision="exact")
    half.update(x, y)
    full.update(x.double(), y.double())
    for mine, theirs in zip(half.about("mean"), full.about("mean"), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-3)
    xx = half.about("zero")[2]
    assert torch.equal(xx, xx.T)


def test_a_run_says_that_it_multiplies_in_bfloat16(tmp_path):
    assert delayer.LoadOptions().compute == "auto"
    with pytest.raises(ValueError, match="compute"):
        delayer.LoadOptions(compute="int8")


@pytest.mark.parametrize("so_far", ["float32", "bfloat16"])
def test_a_study_goes_on_in_the_precision_that_it_began_in(model, so_far):
    """Two measurements of a machine may differ, and results that were made would be made again."""
    ids = [{"input_ids": torch.randint(0, 9, (4, 6))} for _ in range(2)]
    task = task_of(ids, ids, ids, kind="causal-lm")
    notes = multiply_as_asked_(model, "auto", task, torch.device("cpu"), so_far)
    assert precision_of(model) == so_far and bool(notes) == (so_far == "bfloat16")
    other = "float32" if so_far == "bfloat16" else "bfloat16"
    multiply_as_asked_(model, other, task, torch.device("cpu"), so_far)
    assert precision_of(model) == other
