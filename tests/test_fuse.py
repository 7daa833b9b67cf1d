"""The edits fuse and move_padding: what merges is found, put in place, saved, and the same function afterwards."""

import importlib.util
import json
import sys
from copy import deepcopy
from pathlib import Path

import fresh
import pytest
import torch
from planted import BY_NAME, answer, enliven_, gap
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from delayer.activations.counting import observe_sites
from delayer.activations.sites import sites_
from delayer.cutting import Plan, apply
from delayer.edits import edit_from
from delayer.edits.fuse import Fuse
from delayer.edits.linearise import Linearise
from delayer.edits.move_padding import MovePadding
from delayer.errors import PlanError
from delayer.families import chain_of
from delayer.fitting.evidence import Evidence
from delayer.measure.onnx import export_onnx
from delayer.merging import num_macs
from delayer.merging.regions import regions
from delayer.network.chain import Chain
from delayer.network.hashing import model_hash
from delayer.search.fusing import fusions
from delayer.store import load, save
from delayer.tasks.splits import Batch


def plan_of(chain: Chain, *edits) -> Plan:
    return Plan(model="planted", model_hash=model_hash(chain.model), num_blocks=chain.num_blocks, edits=edits)


def copy_of(chain: Chain) -> Chain:
    return chain.copy()


def linear(chain: Chain, inputs, mode: str = "identity") -> tuple[Chain, list[Linearise]]:
    """A copy without activations, and the edits that made it so."""
    small = copy_of(chain)
    edits = [
        Linearise(site=site.path, mode=mode, num_features=site.num_features, axis=site.axis) for site in sites_(small, inputs)
    ]
    for edit in edits:
        edit.apply_(small)
    return small, edits


# -- the whole road ----------------------------------------------------------------------------------------------------

ROADS = {
    "timm-vit": ("mlp.fc1", 6),
    "bert": ("intermediate.dense", 6),
    "gpt2": ("mlp.c_fc", 6),
    "hf-swin": ("fc1", 6),
    "torchvision-mobilenetv2": ("conv.0.0", 10),
    "timm-mobilenetv2": ("conv_pw", 18),
    "timm-resnet": ("conv1", 22),
    "own-signals": ("fc1", 5),
    "sequential": ("fc1", 5),
}


LONG = {"timm-mobilenetv2", "timm-resnet", "bert", "hf-swin"}
"""Roads over blocks of which the others hold the same: inverted residuals, convolutions with norms, MLPs."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in ROADS])
def test_linearise_fuse_save_and_reload(name, tmp_path):
    case = BY_NAME[name]
    first, num = ROADS[name]
    inputs = case.inputs()
    chain = chain_of(load(**case.write(case.chain().model, tmp_path)), inputs)
    before, edits = linear(chain, inputs)
    found, _ = fusions(before, inputs)
    assert len(found) == num and any(first in edit.layers for edit in found)

    plan = Plan.model_validate_json(plan_of(chain, *edits, *found).model_dump_json())
    small = apply(chain, plan)
    assert gap(answer(small, inputs), answer(before.model, inputs)) < 2e-5
    assert gap(answer(small, inputs), answer(chain.model, inputs)) > 1e-3
    for parameter in small.parameters():  # a tuned network is saved with its own weights, not with what a merge gives
        parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    save(small, plan, chain, tmp_path / "small", example=inputs)
    again = load(str(tmp_path / "small"))
    assert gap(answer(again, inputs), answer(small, inputs)) < 1e-6
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in small.state_dict().items()}


def test_a_fresh_process_gets_the_same_outputs(tmp_path):
    """Of a transformer whose MLPs are one matrix each, and of blocks that are one matrix each, with their shortcuts."""
    expected = {}
    for name in ("timm-vit", "own-signals"):
        case, folder = BY_NAME[name], tmp_path / name
        folder.mkdir()
        inputs = case.inputs()
        chain = chain_of(load(**case.write(case.chain().model, folder)), inputs)
        before, edits = linear(chain, inputs)
        plan = plan_of(chain, *edits, *fusions(before, inputs)[0])
        small = apply(chain, plan)
        save(small, plan, chain, folder / "small", example=inputs)
        save_file({"x": inputs}, str(folder / "x.safetensors"))
        expected[folder] = answer(small, inputs)
    code = (
        "import sys, torch, delayer\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from safetensors.torch import load_file, save_file\n"
        "for folder in sys.argv[1:]:\n"
        "    with torch.no_grad():\n"
        "        y = delayer.load(folder + '/small', trust=True)(load_file(folder + '/x.safetensors')['x'])\n"
        "    save_file({'y': y.contiguous()}, folder + '/y.safetensors')\n"
    )
    fresh.run([sys.executable, "-c", code, *expected], cwd=Path(__file__).parent, check=True)
    for folder, y in expected.items():
        assert gap(load_file(str(folder / "y.safetensors"))["y"], y) < 1e-6


def test_lines_that_were_fitted_fold_in(tmp_path):
    """Mode affine puts scales and shifts where activations stood; they vanish in the merge, and a saved copy knows."""
    case = BY_NAME["torchvision-mobilenetv2"]
    inputs = case.inputs()
    chain = chain_of(load(**case.write(case.chain().model, tmp_path)), inputs)
    watched = copy_of(chain)
    sites = sites_(watched, inputs)
    stats = Evidence(activations=observe_sites(watched, sites, [Batch(inputs, None, 0)]).__getitem__)
    edits = [Linearise(site=s.path, mode="affine", num_features=s.num_features, axis=s.axis) for s in sites]
    before = apply(chain, plan_of(chain, *edits), stats)
    found, _ = fusions(Chain(before, chain.family, chain.blocks), inputs)
    plan = plan_of(chain, *edits, *found)
    small = apply(chain, plan, stats)
    assert gap(answer(small, inputs), answer(before, inputs)) < 2e-5
    blocks = [layer for layer in small.features if not isinstance(layer, nn.Sequential)]
    assert not any("Linearised" in repr(block) for block in blocks)
    save(small, plan, chain, tmp_path / "small", example=inputs)
    assert gap(answer(load(str(tmp_path / "small")), inputs), answer(small, inputs)) < 1e-6


# -- in float64 --------------------------------------------------------------------------------------------------------


REPAIRED = ("none", "constant_channel", "border_strip")


@pytest.mark.parametrize(
    "name, repairs",
    [
        ("torchvision-mobilenetv2", REPAIRED),
        ("timm-resnet", REPAIRED),
        ("timm-resnet", ("none",)),
        ("own-stages", REPAIRED),
        ("own-stages", ("none",)),
        pytest.param("torchvision-mobilenetv2", ("none",), marks=pytest.mark.slow),
    ],
)
def test_whole_networks_keep_their_function_to_rounding(name, repairs):
    chain, inputs = BY_NAME[name].chain(), BY_NAME[name].inputs().double()
    chain.model.double()
    small, _ = linear(chain, inputs)
    expected = answer(small.model, inputs)
    found, _ = fusions(small, inputs, repairs=repairs, most=3.0)
    for edit in found:
        forms = edit.apply_(small)
        assert forms.error < 1e-12
    assert found and gap(answer(small.model, inputs), expected) < 1e-12


def test_both_forms_are_the_same_and_the_network_stays():
    chain, inputs = BY_NAME["torchvision-mobilenetv2"].chain(), BY_NAME["torchvision-mobilenetv2"].inputs()
    small, _ = linear(chain, inputs)
    expected = answer(small.model, inputs)
    edit = next(edit for edit in fusions(small, inputs)[0] if edit.sums)
    forms = edit.forms(small)
    x = torch.randn(2, *forms.shape)
    with torch.no_grad():
        assert gap(forms.fused(x), forms.factorised(x)) < 1e-5
    assert forms.repair == "constant_channel" and forms.error < 1e-12
    assert torch.equal(answer(small.model, inputs), expected)


def test_a_merged_network_still_trains():
    chain, inputs = BY_NAME["torchvision-mobilenetv2"].chain(), BY_NAME["torchvision-mobilenetv2"].inputs()
    small, _ = linear(chain, inputs)
    for edit in fusions(small, inputs)[0]:
        edit.apply_(small)
    small.model.train()
    small.model(inputs).square().sum().backward()
    merged = [p for name, p in small.model.named_parameters() if ".merged_1." in name]
    assert merged and all(p.grad is not None for p in merged)


@pytest.mark.slow  # other exports are quick, in test_onnx.py
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_repaired_merges_export_to_onnx(tmp_path):
    """A constant channel and a strip become ordinary operations, for any batch size."""
    chain, x = one_block()
    chain.model.append(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1)).double())
    chain = chain_of(chain.model, x, blocks=r"\d+")
    found, _ = fusions(chain, x, most=5.0)
    assert {edit.apply_(chain).repair for edit in found} == {"border_strip", "constant_channel"}
    check = export_onnx(chain.model.float(), x.float(), tmp_path / "small.onnx")
    assert check.dynamic and check.max_relative_difference < 1e-4


# -- what is found -----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Convolution, norm, activation, convolution, norm, and the shortcut."""

    def __init__(self, width: int = 4, **more):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, **more), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, **more), nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        y += x
        return y


class Looped(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class Peeking(Block):
    """The first norm's output is read twice."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x))
        return self.bn2(self.conv2(y)) * y


class Twice(Block):
    """One norm for two convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv2(self.bn1(self.conv1(x))))


class Optional(Block):
    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if scale is None else y * scale


def one_block(kind: type[nn.Module] = Block, *, is_linear: bool = True, **more) -> tuple[Chain, Tensor]:
    model = nn.Sequential(*(kind(**more) for _ in range(2)))
    enliven_(model)
    model.double().eval()
    x = torch.randn(2, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chain = chain_of(model, x, blocks=r"\d+")
    if is_linear:
        for block in model:
            block.act = nn.Identity()
    return chain, x


def test_an_activation_keeps_layers_apart():
    chain, x = one_block(is_linear=False)
    found, _ = fusions(chain, x)
    assert [edit.layers for edit in found] == [("conv1", "bn1"), ("conv2", "bn2")] * 2


def test_two_padded_kernels_are_never_merged_silently():
    chain, x = one_block()
    found, refused = fusions(chain, x, repairs=("none",))
    assert [edit.layers for edit in found[:2]] == [("conv1", "bn1", "act"), ("conv2", "bn2")]
    assert "in the interior alone" in str(refused[0]) and str(refused[0]).startswith("0: conv1, bn1, act, conv2, bn2 stay")
    chain.model.eval()
    with pytest.raises(PlanError, match="cannot be merged exactly: a 3×3 kernel and a padded 3×3 kernel.*move_padding"):
        Fuse(path="0", layers=("conv1", "bn1", "act", "conv2", "bn2"), sums=1).apply_(chain)


def test_a_strip_takes_the_whole_block_with_its_shortcut():
    chain, x = one_block()
    expected = answer(chain.model, x)
    found, _ = fusions(chain, x, most=2.0)
    assert [(edit.repair, edit.sums) for edit in found] == [("border_strip", 1)] * 2
    for edit in found:
        assert edit.apply_(chain).error < 1e-12
    assert gap(answer(chain.model, x), expected) < 1e-12
    assert [name for name, _ in chain.model[0].named_children()] == ["merged_1"]
    assert chain.model[0].merged_1.layer.kernel_size == (5, 5)


def test_a_merge_that_takes_too_many_multiply_adds_is_left_to_who_asks():
    chain, x = one_block()
    found, refused = fusions(chain, x, most=1.0)
    assert [edit.layers for edit in found[:2]] == [("conv1", "bn1", "act"), ("conv2", "bn2")]
    assert "times the multiply-adds, and 1 are allowed" in str(refused[0])


def test_moving_the_padding_first_merges_as_it_is():
    chain, x = one_block()
    before = answer(chain.model, x)
    for i in range(2):
        MovePadding(first=f"{i}.conv1", second=f"{i}.conv2").apply_(chain)
    moved = answer(chain.model, x)
    assert moved.shape == before.shape and gap(moved, before) > 1e-3
    found, _ = fusions(chain, x, repairs=("none",))
    assert [(edit.sums, edit.repair) for edit in found] == [(1, "none")] * 2
    for edit in found:
        edit.apply_(chain)
    assert gap(answer(chain.model, x), moved) < 1e-12


class TwoShortcuts(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = x + self.bn1(self.conv1(x))
        return torch.add(self.act(self.bn2(self.conv2(y))), y)


def test_two_shortcuts_of_one_block_merge_each():
    chain, x = one_block(TwoShortcuts)
    expected = answer(chain.model, x)
    found, _ = fusions(chain, x)
    assert [(edit.layers, edit.sums, edit.repair) for edit in found[:2]] == [
        (("conv1", "bn1"), 1, "none"),
        (("conv2", "bn2", "act"), 1, "none"),
    ]
    for edit in found:
        edit.apply_(chain)
    assert gap(answer(chain.model, x), expected) < 1e-12
    assert [name for name, _ in chain.model[0].named_children()] == ["merged_1", "merged_2"]
    again = deepcopy(chain.model)
    assert torch.equal(answer(again, x), answer(chain.model, x))


class OptionA(nn.Module):
    """Half the pixels, twice the channels, and a shortcut without parameters."""

    def __init__(self, grown: int = 4, stride: int = 2):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4 + grown, 3, stride, 1), nn.Conv2d(4 + grown, 4 + grown, 3, 1, 1)
        self.grown, self.stride = grown, stride

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        short = x[:, :, :: self.stride, :: self.stride]
        if self.grown:
            short = nn.functional.pad(short, (0, 0, 0, 0, self.grown // 2, self.grown // 2))
        return out + short


@pytest.mark.parametrize(("grown", "stride"), [(4, 2), (0, 1), (0, 3), (2, 1)])
def test_a_shortcut_of_slices_and_zeros_folds_in(grown, stride):
    model = nn.Sequential(OptionA(grown, stride))
    enliven_(model)
    x = torch.randn(2, 4, 11, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chain = chain_of(model.double().eval(), x, blocks="0")
    MovePadding(first="0.conv1", second="0.conv2").apply_(chain)
    expected = answer(model, x)
    found, refused = fusions(chain, x, most=3.0)
    assert not refused and [(edit.layers, edit.sums) for edit in found] == [(("conv1", "conv2"), 1)]
    assert found[0].apply_(chain).error < 1e-12 and gap(answer(model, x), expected) < 1e-12
    assert [type(layer) for layer in model[0].children()] == [nn.Conv2d]


def test_a_value_that_others_read_ends_a_part():
    chain, x = one_block(Peeking)
    expected = answer(chain.model, x)
    found, _ = fusions(chain, x)
    assert [edit.layers for edit in found[:2]] == [("conv1", "bn1"), ("conv2", "bn2")]
    for edit in found:
        edit.apply_(chain)
    assert gap(answer(chain.model, x), expected) < 1e-12


def test_a_layer_that_runs_twice_stays():
    chain, x = one_block(Twice)
    assert fusions(chain, x) == ([], [])


def test_what_cannot_be_traced_is_refused_and_said():
    chain, x = one_block(Looped)
    found, refused = fusions(chain, x)
    assert not found
    assert "the forward pass of Looped cannot be traced (symbolically traced variables" in str(refused[0])
    with pytest.raises(PlanError, match="conv1, bn1 of 0 cannot be merged: the forward pass of Looped cannot be traced"):
        Fuse(path="0", layers=("conv1", "bn1")).apply_(chain)


def test_a_forward_pass_with_optional_arguments_is_not_rewritten():
    chain, x = one_block(Optional)
    expected = answer(chain.model, x)
    found, refused = fusions(chain, x, most=2.0)
    assert "optional arguments" in str(refused[0]) and {edit.sums for edit in found} == {0}
    assert found[0].layers == ("conv1", "bn1", "act", "conv2", "bn2")
    for edit in found:
        edit.apply_(chain)
    assert gap(answer(chain.model, x), expected) < 1e-12
    scale = torch.full((), 3.0, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(chain.model[0](x, scale), 3 * chain.model[0](x))
    with pytest.raises(PlanError, match="optional arguments.*Merge the layers without the shortcut"):
        other, _ = one_block(Optional)
        Fuse(path="0", layers=("conv1", "bn1", "act", "conv2", "bn2"), sums=1, repair="border_strip").apply_(other)


class Branching(Block):
    """Without a mask the first norm's output is read twice, with one it is not."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.bn1(self.conv1(x))
        z = self.bn2(self.conv2(y))
        return z + y if mask is None else z * mask


def test_what_branches_on_an_optional_argument_merges_only_what_is_the_same_in_both():
    chain, x = one_block(Branching)
    expected = answer(chain.model, x)
    found, _ = fusions(chain, x, most=2.0)
    for edit in found:
        edit.apply_(chain)
    assert gap(answer(chain.model, x), expected) < 1e-12
    assert not any(edit.sums for edit in found) and ("conv1", "bn1", "conv2", "bn2") not in [edit.layers for edit in found]


def test_padding_other_than_zeros_is_refused():
    chain, x = one_block(padding_mode="reflect")
    found, refused = fusions(chain, x)
    assert not found and "padding by reflect is not padding by zeros" in str(refused[0])


def test_norms_in_training_mode_are_refused():
    chain, x = one_block()
    chain.model.train()
    found, refused = fusions(chain, x)
    assert not found and "training mode reads its statistics from each batch" in str(refused[0])
    with pytest.raises(PlanError, match=r"call model.eval\(\) first"):
        Fuse(path="0", layers=("conv1", "bn1")).apply_(chain)


def test_a_list_of_single_layers_is_looked_at_as_a_whole():
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1))
    enliven_(model)
    x = torch.randn(2, 4, 9, 9)
    chain = chain_of(model.eval(), x, blocks=r"\d+")
    found, _ = fusions(chain, x, most=5.0)
    assert [(edit.path, edit.layers, edit.repair) for edit in found] == [("", ("0", "1", "2"), "constant_channel")]
    expected = answer(model, x)
    found[0].apply_(chain)
    assert gap(answer(model, x), expected) < 1e-5
    assert [type(layer).__name__ for layer in model] == ["ConstantChannel", "Identity", "Identity"]


def test_parts_of_a_block_are_what_follows_one_another():
    found = regions(one_block()[0].model[0])
    assert [(region.part.paths, region.part.num_sums) for region in found] == [(("conv1", "bn1", "act", "conv2", "bn2"), 1)]
    assert [leg.part.paths for leg in found[0].legs()] == [("conv1", "bn1", "act", "conv2", "bn2")]


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_an_edit_for_another_network_says_what_this_one_has():
    chain, _ = one_block()
    with pytest.raises(PlanError, match="There is no module 7.mlp in this network"):
        Fuse(path="7.mlp", layers=("fc1", "fc2")).apply_(chain)
    with pytest.raises(PlanError, match="fc1, fc2 of 0 with 0 sums do not follow one another.*conv1, bn1, act, conv2, bn2"):
        Fuse(path="0", layers=("fc1", "fc2")).apply_(chain)
    for wrong, said in (
        ({"first": "0.conv9", "second": "0.conv2"}, "no module 0.conv9"),
        ({"first": "0.conv1", "second": "0.bn2"}, "0.bn2 is a BatchNorm2d; only the padding of convolutions"),
    ):
        with pytest.raises(PlanError, match=said):
            MovePadding(**wrong).apply_(chain)
    other, _ = one_block(padding_mode="circular")
    with pytest.raises(PlanError, match="only a number of zeros can be moved"):
        MovePadding(first="0.conv1", second="0.conv2").apply_(other)
    chain.model[1].conv2 = nn.Conv2d(7, 4, 3)
    with pytest.raises(PlanError, match="cannot pad for it"):
        MovePadding(first="1.conv1", second="1.conv2").apply_(chain)


def test_edits_are_plain_data():
    edit = Fuse(path="0", layers=("conv1", "bn1"), repair="border_strip", shape=(4, 9, 9))
    assert edit_from(json.loads(edit.model_dump_json())) == edit
    assert edit.label == "0: conv1, bn1 → one layer (border_strip)" and edit.info().operator == "fuse"
    move = MovePadding(first="0.conv1", second="0.conv2")
    assert edit_from(json.loads(move.model_dump_json())) == move
    assert move.label == "padding of 0.conv2 moves to 0.conv1" and move.info().operator == "move_padding"


# -- real weights ------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_a_real_inverted_residual_merges_without_retraining(data_root):
    """Within 1e-10 in float64, border included, at the sizes of its own images; the dense kernel takes fewer multiply-adds."""
    from torchvision.models import MobileNetV2

    model = MobileNetV2()
    model.load_state_dict(load_file(str(data_root / "weights/mobilenet_v2_torchvision.safetensors")))
    x = torch.rand(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chain = chain_of(model.double().eval(), x)
    small, _ = linear(chain, x)
    paths = ["features.2", "features.8", "features.15"]
    found, refused = fusions(small, x, paths=paths)
    assert not refused and [(edit.repair, edit.sums) for edit in found] == [
        ("constant_channel", 0),
        ("constant_channel", 1),
        ("constant_channel", 1),
    ]
    for edit in found:
        block = deepcopy(small.model.get_submodule(edit.path))
        z = torch.randn(1, *edit.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        expected, before = answer(block, z), num_macs(block, edit.shape)
        assert edit.apply_(small).error < 1e-10
        merged = small.model.get_submodule(edit.path)
        assert gap(answer(merged, z), expected) < 1e-10 and num_macs(merged, edit.shape) < 0.8 * before
