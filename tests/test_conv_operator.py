"""A span of blocks as one convolution: exact on a planted one, border included; the plan says what stands there."""

import pictures
import pytest
import torch
from pictures import Pictures
from planted import BY_NAME, answer, gap
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from delayer.cutting import apply, plan_by_hand
from delayer.edits.replace_span import ReplaceSpan
from delayer.errors import PlanError
from delayer.families import chain_of
from delayer.modules.conv_map import ConvMap
from delayer.network.chain import Chain
from delayer.observing.stats import Moments
from delayer.tasks import task_of


class Planted(nn.Module):
    """A block that is one convolution on top of its input."""

    def __init__(self, kernel: int, tail: str):
        super().__init__()
        self.conv, self.tail = nn.Conv2d(pictures.WIDTH, pictures.WIDTH, kernel, padding=kernel // 2).double(), tail

    def forward(self, x):
        out = x + self.conv(x)
        return F.relu(out) if self.tail == "relu" else out


@pytest.fixture
def data():
    return task_of(pictures.batches(), kind="image-classification").batches("fit")


def planted(*blocks: nn.Module) -> Chain:
    model = pictures.network()
    for number, block in enumerate(blocks, 1):
        model.blocks[number] = block
    return chain_of(model.eval(), pictures.batches(1, 2)[0], blocks=r"blocks\.\d+")


@pytest.mark.parametrize("refit", ["independent", "sequential"])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("tail", ["relu", "identity"])
def test_a_span_that_is_a_convolution_is_found_exactly(kernel, tail, refit, data):
    torch.manual_seed(2)
    chain = planted(Planted(kernel, tail))
    plan = plan_by_hand(chain, ["1"], operator="conv", kernel=kernel, tail=tail, ridge=0.0, refit=refit)
    small = apply(chain, plan, data=data)
    fresh = pictures.batches(1, seed=7)[0]
    assert gap(answer(small, fresh), answer(chain.model, fresh)) < 1e-8
    weight = small.blocks[1].map.conv.weight.data
    expected = chain.model.blocks[1].conv.weight.data.clone()
    expected[range(6), range(6), kernel // 2, kernel // 2] += 1
    assert torch.allclose(weight, expected, atol=1e-8)


def test_two_linear_blocks_become_one_wider_kernel_away_from_the_border(data):
    torch.manual_seed(2)
    chain = planted(Planted(3, "identity"), Planted(3, "identity"))
    found = {}
    for kernel in (3, 5):
        plan = plan_by_hand(chain, ["1:3"], operator="conv", kernel=kernel, ridge=1e-6)
        small, x = apply(chain, plan, data=data), pictures.batches(1, seed=7)[0]
        found[kernel] = gap(answer(small, x), answer(chain.model, x))
        assert len(small.blocks) == 6 or isinstance(small.blocks[2], nn.Module)
    assert found[5] < found[3]


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1e-2, 1.0, 100.0])
def test_on_its_own_rows_it_is_never_worse_than_dropping(ridge, data):
    chain = planted()
    plan = plan_by_hand(chain, ["1:3"], operator="conv", tail="relu", ridge=ridge)
    small, model = apply(chain, plan, data=data), chain.model
    error = dropped = 0.0
    with torch.no_grad():
        for batch in data:
            x = model.blocks[0](F.relu(model.stem(batch.inputs)))
            y = model.blocks[1](x)
            target = y + model.blocks[2].bn2(model.blocks[2].conv2(F.relu(model.blocks[2].bn1(model.blocks[2].conv1(y)))))
            error += float((small.blocks[1].map.conv(x) - target).square().sum())
            dropped += float((x - target).square().sum())
    assert error <= dropped * (1 + 1e-9)


def test_an_unfitted_convolution_is_the_identity():
    x = torch.randn(2, 6, 5, 5)
    for kernel in (1, 3, 5):
        assert torch.equal(ConvMap(6, kernel)(x), x)
        assert torch.equal(ConvMap(6, kernel, "relu")(x), x.relu())


def test_what_stands_there_is_counted(data):
    chain = planted()
    edit = ReplaceSpan(start=1, stop=3, operator="conv", kernel=3, tail="relu")
    small = apply(chain, plan_by_hand(chain, ["1:3"], operator="conv", tail="relu"), data=data)
    gone = sum(p.numel() for b in (1, 2) for p in chain.module(b).parameters())
    before, after = (sum(p.numel() for p in m.parameters()) for m in (chain.model, small))
    assert before - gone + edit.num_params(chain) == after
    assert edit.num_macs(chain) == 81 * 6 * 6 * 9
    assert edit.label == "1:3 → 3×3 convolution"


def test_a_convolution_is_refused_where_it_cannot_stand(data):
    chain = planted()
    plan = plan_by_hand(chain, ["1:3"], operator="conv")
    with pytest.raises(PlanError, match='Span 1:3 ends in relu, but its plan says identity. Write "tail": "relu"'):
        apply(chain, plan, data=data)
    with pytest.raises(PlanError, match="moments of the original are not enough. Give data= instead"):
        apply(chain, plan, Moments([]))
    with pytest.raises(PlanError, match="nothing to fit on"):
        apply(chain, plan)
    case = BY_NAME["timm-vit"]
    tokens = case.chain()
    with pytest.raises(PlanError, match="features lie on axis -1.*Use the operator affine"):
        apply(tokens, plan_by_hand(tokens, ["1"], operator="conv"), data=task_of([case.inputs()]).batches("fit"))
    with pytest.raises(
        ValidationError, match="operator conv was given options that do not do: kernel: Input should be 1, 3 or 5"
    ):
        ReplaceSpan(start=1, stop=2, operator="conv", kernel=4)
    with pytest.raises(ValidationError, match="operator affine has no option kernel .kernel=3 was given.; it takes ridge"):
        ReplaceSpan(start=1, stop=2, operator="affine", kernel=3)
    assert isinstance(chain.model, Pictures)
