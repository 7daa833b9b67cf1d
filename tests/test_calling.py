"""Laws of calling: every way a library takes inputs and answers gives the one tensor that matters."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from delayer.errors import DataError, ModelError
from delayer.network.calling import call, each_tensor, evaluating, first_tensor, output_of, ready, seeded, with_batch

X = torch.arange(6.0).reshape(3, 2)


def test_call_passes_a_tensor_by_position_and_a_dict_by_name():
    def model(a, b=0):
        return a - b

    assert call(model, X).equal(X)
    assert call(model, {"b": X, "a": 3 * X}).equal(2 * X)


@pytest.mark.parametrize(("inputs", "found"), [([X], "found list."), ({}, "found an empty dict.")])
def test_other_inputs_are_refused_with_advice(inputs, found):
    for use in (lambda x: call(nn.Identity(), x), first_tensor, lambda x: with_batch(x, 1)):
        with pytest.raises(DataError) as caught:
            use(inputs)
        assert found in str(caught.value) and "Pass the tensor, or name each tensor" in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        X,
        (X, X + 1),
        [None, X],
        {"out": X, "aux": X + 1},
        {"loss": X.sum(), "logits": X},
        {"loss": X + 1, "heat": X},
        {"aux": X + 1, "logits": X},
        (X.sum(), X),
        [X.mean(), None, X, X + 1],
        SimpleNamespace(loss=X.sum(), logits=X, hidden_states=(X + 1,)),
        SimpleNamespace(last_hidden_state=X, pooler_output=X + 1),
        SimpleNamespace(logits=None, last_hidden_state=X),
    ],
)
def test_output_of_finds_the_main_tensor(raw):
    assert output_of(raw).equal(X)


def test_output_of_says_what_it_found():
    with pytest.raises(ModelError, match="found str. Wrap it in a module"):
        output_of("cat")
    with pytest.raises(ModelError, match="found tuple"):
        output_of((1, None))


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (X.sum(), "a single number"),
        ((X.sum(),), "tuple"),
        ({"loss": X.sum()}, "dict"),
        ({"loss": X.sum(), "logits": X.sum()}, "dict"),
    ],
)
def test_a_loss_is_no_answer(raw, found):
    with pytest.raises(ModelError, match=f"a loss, which is a single number, is none.*found {found}"):
        output_of(raw)


def test_output_of_reads_hugging_face_records():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    record = outputs.CausalLMOutputWithPast(loss=X.sum(), logits=X)
    assert output_of(record).equal(X)
    assert output_of(outputs.BaseModelOutput(last_hidden_state=X)).equal(X)


def test_with_batch_repeats_in_order_and_cuts_short():
    assert with_batch(X, 2).equal(X[:2])
    assert with_batch({"x": X}, 7)["x"].equal(X[[0, 1, 2, 0, 1, 2, 0]])
    assert each_tensor(lambda x: -x, {"x": X})["x"].equal(-X)


def test_evaluating_restores_each_modules_own_mode_even_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()  # a frozen norm inside a network in training
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules()) and not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def draws() -> list[float]:
    return [torch.rand(1).item(), random.random(), float(np.random.rand()), float(F.dropout(torch.ones(50)).sum())]


def test_seeded_gives_the_same_numbers_and_leaves_the_generators_where_they_were():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    first = draws()
    with seeded(7):
        inside = draws()
    after = draws()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    assert (draws(), draws()) == (first, after)
    with pytest.raises(ZeroDivisionError), seeded(7):
        assert draws() == inside and first != inside
        raise ZeroDivisionError
    with seeded(8):
        assert draws() != inside


class Traveller(nn.Linear):
    """Notes where it is sent, since a second device is rarely at hand."""

    def to(self, device):
        self.journey = [*getattr(self, "journey", []), str(device)]
        return self


def test_ready_takes_model_and_inputs_there_and_the_model_back():
    model = Traveller(2, 2)
    with ready(model, {"x": X}, "meta") as inputs:
        assert inputs["x"].device.type == "meta" and model.journey == ["meta"] and not model.training
    assert model.journey == ["meta", "cpu"] and model.training
    with ready(model, X) as inputs:
        assert inputs.device.type == "cpu" and len(model.journey) == 2
