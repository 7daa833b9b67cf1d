"""The edit linearise: exact where units never switch, frozen, saved, and rebuilt without data."""

import json
import os
from pathlib import Path

import pytest
import torch
from planted import BY_NAME, answer, gap, normal
from torch import nn
from torch.nn import functional as F

from delayer.activations.counting import observe_sites
from delayer.activations.normal import Normal, from_norm
from delayer.activations.sites import sites_
from delayer.cutting import Plan, apply, apply_, plan_by_hand
from delayer.edits import edit_from
from delayer.edits.linearise import Linearise
from delayer.errors import PlanError
from delayer.families import chain_of
from delayer.fitting.evidence import Evidence
from delayer.modules.linearised import Linearised
from delayer.network.chain import Chain, Family
from delayer.store import load, save
from delayer.store.proof import reload_proof
from delayer.tasks.splits import Batch

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ON, OFF = 40.0, -40.0


class Planted(nn.Module):
    """Three uses of one function; in the first every unit is always on or always off, in the second all switch."""

    def __init__(self, function=F.relu):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 6) for _ in range(4))
        self.function = function

    def forward(self, x):
        x = self.function(self.a(x))
        x = self.function(self.b(x))
        return self.d(self.function(self.c(x)))


def planted(function=F.relu) -> Chain:
    torch.manual_seed(0)
    model = Planted(function).double().eval()
    with torch.no_grad():
        model.a.bias.copy_(torch.tensor([ON, OFF, ON, OFF, ON, OFF]))
        model.b.bias.copy_(-model.b(function(model.a(X))).mean(0))  # centred: every unit switches
    return Chain(model, Family("own", (), "", 1, "mean"), ())


def batches(x=X, size=7) -> list[Batch]:
    return [Batch(x[k : k + size].clone(), None, k) for k in range(0, len(x), size)]


def plan(chain: Chain, *edits: Linearise, **more) -> Plan:
    return plan_by_hand(chain, [], operator="drop").model_copy(update={"edits": edits, **more})


def edit(site: str, mode: str, num_features: int = 6, axis: int = 1) -> Linearise:
    return Linearise(site=site, mode=mode, num_features=num_features, axis=axis)


# -- the module ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 3, 4, 4)), (-1, (2, 4, 4, 3)), (-1, (2, 3)), (1, (2, 3)), (-1, (2, 5, 3))])
def test_scales_and_shifts_each_feature_along_its_axis(axis, shape):
    module, z = Linearised(3, axis), torch.randn(shape)
    assert torch.equal(module(z), z) and set(module.state_dict()) == {"scale", "shift"}
    module.scale.copy_(torch.tensor([2.0, 0, -1]))
    module.shift.copy_(torch.tensor([0.5, 7, 0]))
    y, by_feature = module(z).movedim(axis, 0), z.movedim(axis, 0)
    assert torch.equal(y[0], 2 * by_feature[0] + 0.5) and (y[1] == 7).all() and torch.equal(y[2], -by_feature[2])


# -- modes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["affine", "sign"])
def test_is_exact_where_every_unit_is_always_on_or_always_off(mode):
    chain = planted()
    expected = answer(chain.model, X)
    small = apply(chain, plan(chain, edit("relu_1", mode)), data=batches())
    assert gap(answer(small, X), expected) < 1e-13
    line = small.relu_1
    assert torch.equal(line.scale, torch.tensor([1.0, 0, 1, 0, 1, 0]).double()) and (line.shift == 0).all()
    assert gap(answer(apply(chain, plan(chain, edit("relu_1", "identity"))), X), expected) > 0.1
    assert torch.equal(answer(chain.model, X), expected)  # the original stays


def test_a_unit_that_is_mostly_off_becomes_exactly_zero_its_bias_included():
    chain = planted()
    (_, second, _) = sites_(chain, X[:2])
    stats = observe_sites(chain, [second], batches())
    z = torch.cat(list(_inputs(chain, "relu_2")))
    off = (z < 0).sum(0) > (z > 0).sum(0)
    assert 0 < off.sum() < 6 and ((z > 0).any(0) & (z < 0).any(0)).any()
    edit("relu_2", "sign").apply_(chain, Evidence(activations=stats.__getitem__))
    y = chain.model.relu_2(z + 1e9)
    assert (y[:, off] == 0).all() and torch.equal(y[:, ~off], (z + 1e9)[:, ~off])


def _inputs(chain: Chain, path: str) -> list[torch.Tensor]:
    kept = []
    handle = chain.model.get_submodule(path).register_forward_pre_hook(lambda module, args: kept.append(args[0].clone()))
    answer(chain.model, X)
    handle.remove()
    return kept


def test_sign_from_norm_parameters_needs_no_data():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double().eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([3.0, -3, 0.1, -0.1, 0, 1]))
    chain = Chain(model, Family("own", (), "", 1, "mean"), ())
    (site,) = sites_(chain, X)
    normal = from_norm(model[1])
    assert site.norm == "1" and isinstance(normal, Normal)
    edit(site.path, "sign").apply_(chain, Evidence(activations={site.path: normal}.__getitem__))
    assert model[2].scale.tolist() == [1, 0, 1, 0, 0, 1] and (model[2].shift == 0).all()


def test_the_best_line_beats_every_other_mode_where_units_switch():
    chain = planted()
    expected = _inputs(_separated(chain), "relu_2")[0].clamp_min(0)
    errors = {}
    for mode in ("affine", "sign", "identity"):
        small = apply(chain, plan(chain, edit("relu_2", mode)), data=batches())
        z = _inputs(chain, "relu_2")[0]
        errors[mode] = float((small.relu_2(z) - expected).square().mean())
    assert 0 < errors["affine"] < min(errors["sign"], errors["identity"])


def _separated(chain: Chain) -> Chain:
    sites_(chain, X[:2])
    return chain


def test_an_always_off_relu6_becomes_a_constant_and_not_the_identity():
    chain = planted(F.relu6)
    expected = answer(chain.model, X)
    small = apply(chain, plan(chain, edit("relu6_1", "affine")), data=batches())
    assert small.relu6_1.scale.tolist() == [0] * 6 and small.relu6_1.shift.tolist() == [6, 0, 6, 0, 6, 0]
    assert gap(answer(small, X), expected) < 1e-13


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.hardswish])
def test_the_best_line_of_a_smooth_activation_is_exact_far_from_zero(function):
    chain = planted(function)
    name = f"{function.__name__}_1"
    small = apply(chain, plan(chain, edit(name, "affine")), data=batches())
    assert gap(answer(small, X), answer(chain.model, X)) < 1e-9


def test_a_channel_that_is_constant_on_the_data_has_a_defined_line():
    chain = planted()
    with torch.no_grad():
        chain.model.a.weight[:3] = 0
        chain.model.a.bias[:3] = torch.tensor([2.0, -2, 0])
    expected = answer(chain.model, X)
    small = apply(chain, plan(chain, edit("relu_1", "affine")), data=batches())
    assert gap(answer(small, X), expected) < 1e-13
    assert small.relu_1.scale[:3].tolist() == [1, 0, 1] and small.relu_1.shift[:3].tolist() == [0, 0, 0]


# -- plans -----------------------------------------------------------------------------------------------------------------


def test_is_frozen_and_travels_as_json():
    one = edit("layer1.0.relu_1", "affine", 64)
    data = json.loads(one.model_dump_json())
    assert edit_from(data) == one and data["edit"] == "linearise" and "layer1.0.relu_1" in one.label
    assert one.spans == () and one.gone == set() and one.watches == ("layer1.0.relu_1",)
    assert edit("act", "identity").watches == ()
    with pytest.raises(ValueError, match="frozen"):
        one.mode = "sign"
    with pytest.raises(ValueError, match="mode"):
        edit("act", "relu")


def test_shapes_alone_are_the_same_in_every_copy():
    """With no statistics: what loading does. Uses get the same names, in whatever order they are edited."""
    chain = planted()
    small = apply(chain, plan(chain, edit("relu_2", "affine"), edit("relu_1", "sign")), data=batches())
    for edits in ((edit("relu_2", "affine"), edit("relu_1", "sign")), (edit("relu_1", "sign"), edit("relu_2", "affine"))):
        shell = apply_(planted(), plan(chain, *edits))
        assert torch.equal(shell.relu_1.scale, torch.ones(6).double())
        shell.load_state_dict(small.state_dict())
        assert torch.equal(answer(shell, X), answer(small, X))


def test_a_later_line_may_be_fitted_to_the_network_cut_so_far():
    chain = planted()
    edits = edit("relu_2", "affine"), edit("relu_3", "affine")
    alone, after = (apply(chain, plan(chain, *edits, refit=refit), data=batches()) for refit in ("independent", "sequential"))
    assert torch.equal(alone.relu_2.scale, after.relu_2.scale) and not torch.equal(alone.relu_3.scale, after.relu_3.scale)
    z = _inputs(Chain(after, chain.family, ()), "relu_3")[0]
    best = torch.linalg.lstsq(torch.stack([z[:, 0], torch.ones(len(z)).double()], 1), z[:, 0].clamp_min(0)).solution
    torch.testing.assert_close(torch.stack([after.relu_3.scale[0], after.relu_3.shift[0]]), best)


def test_refuses_what_is_no_activation_of_this_network():
    chain = planted()
    with pytest.raises(PlanError, match="relu_9 is no activation of this network. It has relu_1, relu_2, relu_3"):
        apply(chain, plan(chain, edit("relu_9", "affine")), data=batches())
    with pytest.raises(PlanError, match="The network has no activation relu_9. `delayer sites` lists"):
        apply(chain, plan(chain, edit("relu_9", "identity")))
    with pytest.raises(PlanError, match="There is no module gone.away in this network to make gone.away.relu linear"):
        apply(chain, plan(chain, edit("gone.away.relu", "identity")))
    with pytest.raises(PlanError, match="fits relu_1 .*nothing to fit on"):
        apply(chain, plan(chain, edit("relu_1", "affine")))


# -- the whole road --------------------------------------------------------------------------------------------------------


def own_resnet() -> nn.Module:
    """torchvision's ResNet: one ReLU a block, used twice."""
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(1)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5).eval()


def own_shared() -> nn.Module:
    torch.manual_seed(0)
    return Planted().eval()


@pytest.mark.parametrize("way", ["shared module", "calls", pytest.param("library", marks=pytest.mark.slow)])
def test_saves_and_reloads_in_a_fresh_process(way, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    if way == "library":
        case, x = BY_NAME["timm-mobilenetv2"], normal(2, 3, 32, 32)()
        model = load(**case.write(case.build(), tmp_path))
    else:
        model = load(f"test_linearise:{'own_resnet' if way == 'shared module' else 'own_shared'}")
        x = normal(2, 3, 32, 32)() if way == "shared module" else normal(4, 6)()
    chain = chain_of(model, x, **({"blocks": "[abcd]"} if way == "calls" else {}))
    copy = Chain(apply(chain, plan(chain)), chain.family, chain.blocks)
    sites = sites_(copy, x)
    modes = dict(zip(sites[1:4], ("affine", "sign", "identity"), strict=False))
    edits = [edit(site.path, mode, site.num_features, site.axis) for site, mode in modes.items()]
    cut = plan(chain, *edits)
    small = apply(chain, cut, data=[Batch(x, None, 0)])
    assert gap(answer(small, x), answer(chain.model, x)) > 1e-4
    artefact = save(small, cut, chain, tmp_path / "small", example=x)
    assert not artefact.ordinary
    assert torch.equal(answer(load(str(tmp_path / "small")), x), answer(small, x))
    proof = reload_proof(small, tmp_path / "small", x)
    assert proof.passed and proof.max_abs_difference < 1e-6 * proof.max_abs_output


@pytest.mark.slow
def test_exports_to_onnx_like_any_other_plan(tmp_path):
    pytest.importorskip("onnxruntime")
    from delayer.measure.onnx import export_onnx

    x = normal(2, 3, 32, 32)()
    chain = chain_of(own_resnet(), x)
    sites = sites_(Chain(apply(chain, plan(chain)), chain.family, chain.blocks), x)
    cut = plan(chain, *(edit(s.path, "affine", s.num_features, s.axis) for s in sites[1:4]))
    small = apply(chain, cut, data=[Batch(x, None, 0)])
    assert export_onnx(small, x, tmp_path / "model.onnx").max_relative_difference < 1e-4


def test_a_best_line_is_not_read_from_the_parameters_of_a_norm():
    with pytest.raises(PlanError, match="relu_2 is to become its best line, which data tell.*Give data="):
        edit("relu_2", "affine").module(Normal(torch.zeros(6), torch.ones(6)))


def test_only_activations_become_linear_with_as_many_features_as_they_pass():
    chain = planted()
    first = next(path for path, module in chain.model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    with pytest.raises(PlanError, match=f"{first} is a .* and no activation. `delayer sites` lists"):
        edit(first, "identity").apply_(chain)
    found = sites_(chain, X)[0]
    stats = observe_sites(chain, [found], batches())
    with pytest.raises(PlanError, match=f"{found.path} passes {found.num_features} features, and its edit says 3"):
        Linearise(site=found.path, mode="sign", num_features=3, axis=found.axis).apply_(
            chain, Evidence(activations=stats.__getitem__)
        )
