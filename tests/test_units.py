"""Hidden units of removed blocks in blocks that stay: the same features there, chosen by least loss, in the old shapes."""

import itertools

import pytest
import torch
from torch import nn

from delayer.cutting import Plan, apply
from delayer.edits.adopt_units import AdoptUnits
from delayer.edits.drop_span import DropSpan
from delayer.edits.resolve_block import ResolveBlock, SolveLast
from delayer.errors import ModelError, PlanError
from delayer.families import chain_of
from delayer.fitting.block_runs import BlockRuns
from delayer.fitting.layer import solve_layer
from delayer.fitting.units import Wider, most_useful
from delayer.network.chain import Chain
from delayer.observing.stats.patch_moments import PatchMoments
from delayer.search.repair import resolved
from delayer.tasks.splits import Batch

WIDTH, HIDDEN = 8, 16


class Mlp(nn.Module):
    """x + fc2(act(fc1(norm(x))))."""

    def __init__(self, act: nn.Module, norm: nn.Module, bias: bool = True):
        super().__init__()
        self.norm, self.fc1, self.act = norm, nn.Linear(WIDTH, HIDDEN, bias=bias), act
        self.fc2 = nn.Linear(HIDDEN, WIDTH, bias=bias)

    def forward(self, x):
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Net(nn.Module):
    def __init__(self, act=nn.GELU, norm=nn.Identity, num: int = 4, bias: bool = True):
        super().__init__()
        self.blocks = nn.ModuleList(Mlp(act(), norm(), bias) for _ in range(num))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x).mean(1)


def affine_norm() -> nn.Module:
    norm = nn.LayerNorm(WIDTH)
    nn.init.normal_(norm.weight, 1.0, 0.3)
    nn.init.normal_(norm.bias, 0.0, 0.3)
    return norm


@pytest.fixture
def data():
    torch.manual_seed(1)
    return [Batch(torch.randn(20, 6, WIDTH), None, 20 * start) for start in range(8)]


def chain_over(model: nn.Module, data: list[Batch]) -> Chain:
    return chain_of(model.eval(), data[0].inputs[:2], blocks=r"blocks\.\d+")


def plan_of(chain: Chain, *edits) -> Plan:
    return Plan(model="net", model_hash="", num_blocks=chain.num_blocks, edits=edits)


def num_kept(model: nn.Module) -> int:
    return sum(isinstance(module, Mlp) for module in model.modules())


def planted() -> Net:
    """Blocks 1 and 2 write with half of their units each; what block 1 writes block 2 does not read."""
    torch.manual_seed(0)
    model = Net()
    first, second = model.blocks[1], model.blocks[2]
    with torch.no_grad():
        first.fc2.weight[:4] = 0
        first.fc2.bias[:4] = 0
        second.fc1.weight[:, 4:] = 0
        for block in (first, second):
            block.fc2.weight[:, HIDDEN // 2 :] = 0
    return model


def test_units_that_only_a_removed_block_had_are_adopted_and_nothing_is_lost(data):
    model = planted()
    chain, x = chain_over(model, data), data[0].inputs
    drop = DropSpan(start=2, stop=3)
    lost = {}
    for name, edit in {
        "nothing": None,
        "own": ResolveBlock(block=1, target=2, ridge=1e-6),
        "units": AdoptUnits(block=1, target=2, donors=(2,), ridge=1e-6),
    }.items():
        small = apply(chain, plan_of(chain, drop, *([edit] if edit else [])), data=data)
        lost[name] = (small(x) - model(x)).square().mean().item()
        assert num_kept(small) == 3 and small.blocks[1].fc1.weight.shape == (HIDDEN, WIDTH)
    assert lost["units"] < 1e-6 * lost["nothing"] and lost["own"] > 1e-2 * lost["nothing"]


@pytest.mark.parametrize("norm", [nn.Identity, affine_norm])
def test_adopted_rows_answer_behind_the_blocks_norm_what_they_answered_behind_their_own(norm, data):
    torch.manual_seed(0)
    model = Net(norm=norm)
    chain = chain_over(model, data)
    block, donor, runs = model.blocks[1], model.blocks[3], BlockRuns(chain)
    wide = Wider(block, [donor], runs.run(1, data[0]))
    before = [parameter.clone() for parameter in block.parameters()]
    with wide.standing():
        run = runs.run(1, data[0])
        wide.check(run)
    hidden, stream = run.ending[0].read, model.blocks[0](data[0].inputs)
    for each, read in ((block, hidden[..., :HIDDEN]), (donor, hidden[..., HIDDEN:])):
        torch.testing.assert_close(read, each.act(each.fc1(each.norm(stream))), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(before, block.parameters(), strict=True))


def test_features_are_given_up_by_the_loss_of_a_new_solution_without_them():
    torch.manual_seed(0)
    x, weight = torch.randn(200, 7, dtype=torch.double) @ torch.randn(7, 7, dtype=torch.double), torch.randn(3, 7).double()
    y = x @ torch.randn(7, 3).double() + 0.1 * torch.randn(200, 3).double()
    moments = PatchMoments(precision="exact")
    moments.update(x[None], y[None])
    xc, yc = x - x.mean(0), y - y.mean(0)
    energy = xc.square().sum(0)
    penalty = 0.05 * (energy + energy.mean()) / 2

    def loss(some: tuple[int, ...]) -> float:
        """Error and penalty of the best weights of some features, with penalties of all."""
        index = list(some)
        pulled = xc[:, index].T @ yc + penalty[index, None] * weight.T[index]
        solved = torch.linalg.solve(xc[:, index].T @ xc[:, index] + penalty[index].diag(), pulled)
        return float(yc.square().sum() + (penalty[index, None] * weight.T[index].square()).sum() - (solved * pulled).sum())

    left = tuple(range(7))
    own = [float((penalty[k] * weight[:, k].square()).sum()) for k in range(7)]  # a unit that goes takes its penalty along
    for _ in range(3):
        left = min(
            itertools.combinations(left, len(left) - 1), key=lambda some: loss(some) + sum(own[k] for k in left if k not in some)
        )
    assert most_useful(moments, weight, 4, ridge=0.05, steps=3).tolist() == list(left)


def test_moments_of_some_features_are_those_of_all_cut_out():
    torch.manual_seed(0)
    x, y, index = torch.randn(2, 30, 9), torch.randn(2, 30, 3), torch.tensor([0, 3, 4, 8])
    whole, some = PatchMoments(), PatchMoments()
    whole.update(x, y)
    some.update(x[..., index], y)
    for mine, other in zip(whole.only(index).about("zero"), some.about("zero"), strict=True):
        torch.testing.assert_close(mine, other)
    weight = torch.randn(3, 4)
    for mine, other in zip(*(solve_layer(m, weight, ridge=0.1) for m in (whole.only(index), some)), strict=True):
        torch.testing.assert_close(mine, other)


def test_units_that_hang_together_are_not_adopted(data):
    torch.manual_seed(0)
    chain = chain_over(Net(act=lambda: nn.Softmax(-1)), data)
    drop = DropSpan(start=2, stop=3)
    with pytest.raises(PlanError, match=r"Block 1 cannot take units of \(2,\).*change with those beside.*Use resolve_block 1"):
        apply(chain, plan_of(chain, drop, AdoptUnits(block=1, target=2, donors=(2,))), data=data)
    edits = resolved(chain, (drop,), data[0], units=True)
    assert {edit.edit for edit in edits} == {"drop_span", "resolve_block"}


def test_a_shift_that_no_bias_takes_up_is_refused(data):
    torch.manual_seed(0)
    model = Net(norm=affine_norm, bias=False)
    chain = chain_over(model, data)
    with pytest.raises(ModelError, match="fc1 has no bias, which would take up"):
        Wider(model.blocks[1], [model.blocks[2]], BlockRuns(chain).run(1, data[0]))


def test_blocks_right_before_removed_ones_adopt_and_others_are_solved(data):
    torch.manual_seed(0)
    chain = chain_over(Net(norm=affine_norm, num=6), data)
    edits = resolved(chain, (DropSpan(start=1, stop=3), DropSpan(start=4, stop=5)), data[0], units=True)
    made = [(edit.edit, edit.block, getattr(edit, "donors", ())) for edit in edits if isinstance(edit, SolveLast)]
    assert made == [("adopt_units", 0, (1, 2)), ("adopt_units", 3, (4,)), ("resolve_block", 5, ())]
    small = apply(chain, plan_of(chain, *edits), data=data)
    assert num_kept(small) == 3 and torch.isfinite(small(data[0].inputs)).all()


def test_a_gated_decoder_adopts_rows_of_both_gates():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        nn.init.normal_(layer.post_attention_layernorm.weight, 1.0, 0.2)
    data = [Batch({"input_ids": torch.randint(0, 32, (8, 12))}, None, 8 * start) for start in range(6)]
    chain = chain_of(model, data[0].inputs)
    edits = resolved(chain, (DropSpan(start=2, stop=3),), data[0], units=True)
    assert [edit.edit for edit in edits] == ["drop_span", "adopt_units", "resolve_block"]
    runs = BlockRuns(chain)
    wide = Wider(model.model.layers[1], [model.model.layers[2]], runs.run(1, data[0]))
    assert wide.units.feeds == ("mlp.gate_proj", "mlp.up_proj") and wide.units.norm == "post_attention_layernorm"
    small = apply(chain, plan_of(chain, *edits), data=data)
    assert small.num_parameters() == model.num_parameters() - sum(p.numel() for p in model.model.layers[2].parameters())
    assert all(layer.mlp.down_proj.weight.shape == (16, 24) for layer in small.model.layers)


def test_donors_are_other_blocks_of_the_network(data):
    torch.manual_seed(0)
    chain = chain_over(Net(), data)
    for donors in ((1,), (9,)):
        with pytest.raises(PlanError, match="donors are other blocks"):
            AdoptUnits(block=1, target=2, donors=donors).check(chain)
    with pytest.raises(PlanError, match="names a donor twice"):
        AdoptUnits(block=1, target=2, donors=(2, 2)).check(chain)


def test_a_block_chooses_from_no_more_units_than_are_allowed(data, monkeypatch):
    torch.manual_seed(0)
    chain, drop = chain_over(Net(num=5), data), (DropSpan(start=1, stop=4),)
    for most, donors in ((4 * HIDDEN, (1, 2, 3)), (3 * HIDDEN, (1, 2)), (2 * HIDDEN - 1, None)):
        monkeypatch.setattr("delayer.search.repair.MOST_UNITS", most)
        made = [
            getattr(edit, "donors", None) for edit in resolved(chain, drop, data[0], units=True) if isinstance(edit, SolveLast)
        ]
        assert made == [donors, None]
