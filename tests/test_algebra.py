"""Merging is exact or refused: one table of cases, in float64, border included, and every refusal's reason."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from delayer.merging import (
    BiasMap,
    BorderStrip,
    ConstantChannel,
    Part,
    Refusal,
    add,
    compose,
    difference,
    growth,
    identity,
    in_a_row,
    merge,
    module_of,
    num_macs,
    read,
    regroup,
    with_shortcut,
)
from delayer.modules.linearised import Linearised

REPAIRS = ("none", "constant_channel", "bias_map", "border_strip")


def lively(layer: nn.Module, seed: int = 0) -> nn.Module:
    """A layer in evaluation mode whose every number matters."""
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=draw)
            tensor.data.copy_(noise.abs() + 0.3 if name.endswith("running_var") else noise)
    return layer.eval()


def conv(i: int, o: int, k, s=1, p=0, d=1, g: int = 1, bias: bool = True) -> nn.Conv2d:
    return lively(nn.Conv2d(i, o, k, s, p, d, g, bias), i * o)


def norm(num: int, eps: float = 1e-5) -> nn.Module:
    return lively(nn.BatchNorm2d(num, eps), num)


def line(num: int, axis: int = 1) -> nn.Module:
    return lively(Linearised(num, axis), num)


def inverted(stride: int = 1, width: int = 3, biased: bool = True) -> list[nn.Module]:
    """1×1 → depthwise 3×3 → 1×1, each with its norm; the first norm shifts nothing where there is to be no bias."""
    wide = 4 * width
    first = norm(wide)
    if not biased:
        first.bias.data.zero_()
        first.running_mean.zero_()
    return [
        conv(width, wide, 1, bias=False),
        first,
        nn.Identity(),
        conv(wide, wide, 3, stride, 1, g=wide, bias=False),
        norm(wide),
        line(wide),
        conv(wide, width, 1, bias=False),
        norm(width),
    ]


@dataclass(frozen=True)
class Case:
    """One composition, and what is exact of it."""

    name: str
    part: Callable[[], Part]
    shape: tuple[int, ...]
    exact: tuple[str, ...]
    """Repairs by which it merges."""
    reason: str = ""
    """Words of the refusal when nothing is repaired."""


IMAGE = (4, 13, 11)
ALL, BY_BIAS, BY_STRIP = REPAIRS, REPAIRS[1:], ("border_strip",)
CASES = [
    Case("linear", lambda: in_a_row(lively(nn.Linear(5, 9)), nn.Dropout(), lively(nn.Linear(9, 4))), (5,), ALL),
    Case("linear on tokens", lambda: in_a_row(lively(nn.Linear(5, 9)), line(9, -1), lively(nn.Linear(9, 4, False))), (7, 5), ALL),
    Case(
        "mlp with its shortcut",
        lambda: with_shortcut(lively(nn.Linear(5, 20)), line(20, -1), lively(nn.Linear(20, 5))),
        (7, 5),
        ALL,
    ),
    Case(
        "norm of features",
        lambda: in_a_row(lively(nn.Linear(5, 9)), lively(nn.BatchNorm1d(9)), lively(nn.Linear(9, 4))),
        (5,),
        ALL,
    ),
    Case("norm, its own eps", lambda: in_a_row(conv(4, 6, 3, 2, 1, bias=False), norm(6, 0.3)), IMAGE, ALL),
    Case("norm before a kernel", lambda: in_a_row(norm(4), conv(4, 6, 3)), IMAGE, ALL),
    Case("norm before a padded kernel", lambda: in_a_row(norm(4), conv(4, 6, 3, 1, 1)), IMAGE, BY_BIAS, "bias"),
    Case("norm without scale", lambda: in_a_row(conv(4, 6, 3), lively(nn.BatchNorm2d(6, affine=False))), IMAGE, ALL),
    Case("second without padding", lambda: in_a_row(conv(4, 6, 3, 1, 1), conv(6, 5, 3)), IMAGE, ALL),
    Case("second without padding, strides", lambda: in_a_row(conv(4, 6, 3, 2, 1), conv(6, 5, 3, 3)), IMAGE, ALL),
    Case("second without padding, dilated", lambda: in_a_row(conv(4, 6, 3, 1, 2, 2), conv(6, 5, 2, 1, 0, 3)), IMAGE, ALL),
    Case(
        "second without padding, strided and dilated",
        lambda: in_a_row(conv(4, 6, 3, 2, 2, 2), conv(6, 5, 2, 1, 0, 2)),
        IMAGE,
        ALL,
    ),
    Case("second without padding, groups", lambda: in_a_row(conv(4, 12, 3, 1, 1, g=4), conv(12, 6, 3, g=6)), IMAGE, ALL),
    Case(
        "oblong",
        lambda: in_a_row(conv(4, 6, (1, 3), (2, 1), (0, 1)), conv(6, 5, (3, 2), (1, 2), (1, 0))),
        IMAGE,
        ("bias_map", "border_strip"),
        "bias",
    ),
    Case("k×k → 1×1", lambda: in_a_row(conv(4, 6, 3, 2, 1), conv(6, 5, 1)), IMAGE, ALL),
    Case("1×1 → k×k without bias", lambda: in_a_row(conv(4, 6, 1, bias=False), conv(6, 5, 3, 2, 1)), IMAGE, ALL),
    Case(
        "1×1 with stride → k×k dilated, no bias",
        lambda: in_a_row(conv(4, 6, 1, 2, bias=False), conv(6, 5, 3, 1, 2, 2)),
        IMAGE,
        ALL,
    ),
    Case("full padding → k×k without bias", lambda: in_a_row(conv(4, 6, 3, 1, 2, bias=False), conv(6, 5, 3, 1, 1)), IMAGE, ALL),
    Case("1×1 → k×k", lambda: in_a_row(conv(4, 6, 1), conv(6, 5, 3, 1, 1)), IMAGE, BY_BIAS, "ring of width 1"),
    Case("1×1 → k×k, stride", lambda: in_a_row(conv(4, 6, 1, 2), conv(6, 5, 5, 2, 2)), IMAGE, BY_BIAS, "ring of width 2"),
    Case(
        "padded 1×1 → k×k",
        lambda: in_a_row(conv(4, 6, 1, 1, 1), conv(6, 5, 3, 1, 1)),
        IMAGE,
        ("bias_map", "border_strip"),
        "bias_map or border_strip",
    ),
    Case("inverted residual", lambda: in_a_row(*inverted()), (3, 9, 9), BY_BIAS, "ring of width 1"),
    Case("inverted residual with its shortcut", lambda: with_shortcut(*inverted()), (3, 9, 8), BY_BIAS, "ring of width 1"),
    Case("inverted residual, stride", lambda: in_a_row(*inverted(2)), (3, 9, 8), BY_BIAS, "ring of width 1"),
    Case("inverted residual without bias", lambda: in_a_row(*inverted(biased=False)), (3, 9, 9), ALL),
    Case("k×k → k×k", lambda: in_a_row(conv(4, 6, 3, 1, 1), conv(6, 5, 3, 1, 1)), IMAGE, BY_STRIP, "in the interior alone"),
    Case(
        "k×k → k×k without bias",
        lambda: in_a_row(conv(4, 6, 3, 1, 1, bias=False), conv(6, 5, 3, 1, 1, bias=False)),
        IMAGE,
        BY_STRIP,
        "in the interior alone",
    ),
    Case("k×k → k×k, strides", lambda: in_a_row(conv(4, 6, 5, 2, 2), conv(6, 5, 3, 3, 1)), IMAGE, BY_STRIP, "interior"),
    Case("k×k → k×k, dilated", lambda: in_a_row(conv(4, 6, 3, 1, 2, 2), conv(6, 5, 3, 1, 3, 3)), IMAGE, BY_STRIP, "interior"),
    Case("k×k → k×k, groups", lambda: in_a_row(conv(4, 8, 3, 1, 1, g=4), conv(8, 6, 3, 2, 1, g=2)), IMAGE, BY_STRIP, "interior"),
    Case("k×k → k×k, small image", lambda: in_a_row(conv(4, 6, 5, 1, 2), conv(6, 5, 5, 1, 2)), (4, 3, 2), BY_STRIP, "interior"),
    Case(
        "residual block",
        lambda: with_shortcut(conv(4, 4, 3, 1, 1, bias=False), norm(4), line(4), conv(4, 4, 3, 1, 1, bias=False), norm(4)),
        IMAGE,
        BY_STRIP,
        "interior",
    ),
    Case(
        "residual block, strided shortcut",
        lambda: with_shortcut(conv(4, 6, 3, 2, 1), conv(6, 6, 3, 1, 1), shortcut=conv(4, 6, 1, 2)),
        IMAGE,
        BY_STRIP,
        "interior",
    ),
    Case("one kernel and its shortcut", lambda: with_shortcut(conv(4, 4, 3, 1, 1, g=2)), IMAGE, ALL),
    Case("dilated kernel and its shortcut", lambda: with_shortcut(conv(4, 4, 3, 1, 2, 2)), IMAGE, ALL),
    Case("strided 1×1 shortcut", lambda: with_shortcut(conv(4, 6, 3, 2, 1), shortcut=conv(4, 6, 1, 2)), IMAGE, ALL),
    Case(
        "signal",
        lambda: in_a_row(lively(nn.Conv1d(4, 6, 3, 1, 1)), lively(nn.Conv1d(6, 5, 3, 2, 1))),
        (4, 17),
        BY_STRIP,
        "interior",
    ),
    Case(
        "volume",
        lambda: in_a_row(lively(nn.Conv3d(2, 3, 3, 1, 1)), lively(nn.Conv3d(3, 2, 3, 1, 1))),
        (2, 5, 4, 6),
        BY_STRIP,
        "interior",
    ),
    Case(
        "padding by name",
        lambda: in_a_row(lively(nn.Conv2d(4, 6, 3, padding="same")), lively(nn.Conv2d(6, 5, 3, padding="valid"))),
        IMAGE,
        ALL,
    ),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
MODULES = {"constant_channel": ConstantChannel, "bias_map": BiasMap, "border_strip": BorderStrip}


# -- laws that every case obeys ----------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("repair", REPAIRS)
def test_a_merge_is_exact_border_included_or_refused(case, repair):
    part = case.part().double()
    found = merge(part, repair, case.shape)
    assert found.verdict.exact == (found.module is not None) == (repair in case.exact), str(found.verdict)
    if found.module is None:
        return
    x = torch.randn(3, *case.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, y = part.eval()(x), found.module(x)
    assert float((y - expected).abs().max() / expected.abs().max()) < 1e-12
    assert found.error < 1e-12
    assert found.verdict.repair in ("none", repair)
    if "none" not in case.exact:
        assert found.verdict.repair == repair and isinstance(found.module, MODULES[repair])


@EACH
def test_without_a_repair_the_reason_is_told(case):
    found = merge(case.part(), "none", case.shape)
    assert case.reason in str(found.verdict) if case.reason else str(found.verdict) == "exact as it is"


@pytest.mark.parametrize(
    "case, repair",
    [  # each case with one repair, and each repair with every fourth case; all of them in the slow suite
        pytest.param(case, repair, id=f"{case.name}-{repair}", marks=[] if (i + j) % len(REPAIRS) == 0 else pytest.mark.slow)
        for i, case in enumerate(CASES)
        for j, repair in enumerate(REPAIRS)
    ],
)
def test_shapes_follow_from_shapes_alone(case, repair):
    """A skeleton with other values gets the very modules that the saved network has."""
    found = merge(case.part(), repair, case.shape)
    part = case.part()
    for tensor in (*part.parameters(), *part.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1)
    hollow = merge(part.train(), repair, case.shape, hollow=True)
    if found.module is not None:
        assert {k: v.shape for k, v in found.module.state_dict().items()} == {
            k: v.shape for k, v in hollow.module.state_dict().items()
        }
        assert growth(part.eval(), repair, case.shape) == num_macs(found.module, case.shape) / num_macs(
            case.part().double(), case.shape
        )


@EACH
def test_an_exact_merge_is_the_literal_map(case):
    """The merged layer's matrix is, column by column, what the part makes of each basis image."""
    if "none" not in case.exact:
        return
    part, merged = case.part().double().eval(), merge(case.part(), "none", case.shape).module
    num = min(40, torch.Size(case.shape).numel())
    x = torch.eye(torch.Size(case.shape).numel(), dtype=torch.float64)[:num].view(num, *case.shape)
    with torch.no_grad():
        assert torch.allclose(merged(x), part(x), rtol=0, atol=1e-11 * float(part(x).abs().max()))


# -- single formulas ---------------------------------------------------------------------------------------------------


def test_the_kernel_of_two_convolutions_is_the_double_sum():
    one, two = (layer.double().requires_grad_(False) for layer in (conv(2, 3, 3, 2, 1, 2), conv(3, 4, 2, 1, 0, 3)))
    merged = compose(read(one, 2), read(two, 2))
    assert merged.stride == (2, 2) and merged.padding == (1, 1) and merged.dilation == (2, 2)
    reach = 2 * (3 - 1) + 2 * 3 * (2 - 1)
    expected = torch.zeros(4, 2, reach + 1, reach + 1, dtype=torch.float64)
    for a in range(2):
        for b in range(2):
            for u in range(3):
                for v in range(3):
                    expected[:, :, 2 * u + 6 * a, 2 * v + 6 * b] += two.weight[:, :, a, b] @ one.weight[:, :, u, v]
    assert torch.allclose(merged.weight, expected[:, :, ::2, ::2], atol=1e-12)
    assert expected.abs().sum() == pytest.approx(float(expected[:, :, ::2, ::2].abs().sum()))
    assert torch.allclose(merged.bias, two.bias + two.weight.sum((2, 3)) @ one.bias, atol=1e-12)


def test_groups_stay_where_both_have_them():
    one, two = read(conv(4, 8, 3, g=4), 2), read(conv(8, 4, 3, g=2), 2)
    assert compose(one, two).groups == 2
    depthwise = compose(read(conv(6, 6, 3, g=6), 2), read(norm(6), 2))
    assert depthwise.groups == 6 and depthwise.weight.shape == (6, 1, 3, 3)


def test_fewer_groups_are_the_same_map():
    layer = conv(8, 12, 3, g=4).double()
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64)
    for fewer in (1, 2, 4):
        wide = nn.functional.conv2d(x, regroup(layer.weight, 4, fewer), layer.bias, groups=fewer)
        assert torch.allclose(wide, layer(x), atol=1e-12)


def test_a_shortcut_adds_one_at_the_centre():
    kernel = read(conv(4, 4, 3, 1, 1), 2)
    more = add(kernel, identity(4, 2)).weight - kernel.weight
    assert torch.equal(more[:, :, 1, 1], torch.eye(4, dtype=torch.float64)) and more.abs().sum() == 4


def test_an_inverted_residual_keeps_its_kernel_and_takes_less():
    """0.75 / (1 + 4.5 / C) of the multiply-adds at expansion 6, as the formula says."""
    width = 16
    layers = [conv(width, 96, 1), conv(96, 96, 3, 1, 1, g=96), conv(96, width, 1)]
    merged = merge(in_a_row(*layers), "bias_map", (width, 8, 8)).module
    assert merged.layer.kernel_size == (3, 3)
    assert growth(in_a_row(*layers), "bias_map", (width, 8, 8)) == pytest.approx(0.75 / (1 + 4.5 / width))
    two = in_a_row(conv(4, 4, 3, 1, 1), conv(4, 4, 3))
    assert growth(two, "none", (4, 64, 64)) == pytest.approx(25 / (9 * 64**2 / 62**2 + 9))


def test_the_border_that_is_ignored_is_wrong():
    """Why two padded kernels are never merged silently: the interior is right, 44 % of an 8×8 image is not."""
    one, two = conv(4, 4, 3, 1, 1), conv(4, 4, 3, 1, 1)
    naive = module_of(compose(read(one, 2), read(two, 2), "border_strip")).layer
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        off = (naive(x) - two.double()(one.double()(x))).abs().amax((0, 1))
    assert float(off[1:-1, 1:-1].max()) < 1e-10
    assert float((off > 1e-3).double().mean()) == pytest.approx(28 / 64)


def test_moved_padding_merges_as_it_is_and_changes_the_border():
    one, two = conv(4, 6, 3, 1, 1), conv(6, 4, 3, 2, 1)
    x = torch.randn(1, 4, 12, 12, dtype=torch.float64)
    one, two = one.double().requires_grad_(False), two.double().requires_grad_(False)
    before = in_a_row(one, two)(x)
    one.padding, two.padding = (2, 2), (0, 0)
    part = in_a_row(one, two)
    assert merge(part, "none", (4, 12, 12)).error < 1e-12
    off = (part(x) - before).abs().amax((0, 1))
    assert off.shape == before.shape[2:] and float(off[1:-1, 1:-1].max()) < 1e-10 and float(off.max()) > 1e-3


def test_a_constant_channel_and_a_strip_take_any_size_of_image():
    for repair in ("constant_channel", "border_strip"):
        part = in_a_row(*inverted())
        merged = merge(part, repair, (3, 9, 9)).module
        assert all(difference(part, merged, (3, *size)) < 1e-12 for size in ((9, 9), (5, 12), (1, 1), (2, 3)))


def test_a_bias_map_holds_for_one_size_of_image():
    merged = merge(in_a_row(*inverted()), "bias_map", (3, 9, 9)).module
    with pytest.raises(ValueError, match=r"images of \[9, 9\], and these inputs ask for \[5, 5\].*constant_channel"):
        merged(torch.zeros(1, 3, 5, 5, dtype=torch.float64))
    assert "one size of image" in merge(in_a_row(*inverted()), "bias_map").verdict.reason


def test_gradients_reach_every_repaired_merge():
    for repair, layers in (
        ("constant_channel", inverted()),
        ("bias_map", inverted()),
        ("border_strip", [conv(3, 4, 3, 1, 1), conv(4, 3, 3, 1, 1)]),
    ):
        merged = merge(in_a_row(*layers), repair, (3, 9, 9)).module
        merged(torch.randn(2, 3, 9, 9, dtype=torch.float64)).square().sum().backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in merged.parameters())


# -- refusals ----------------------------------------------------------------------------------------------------------


class Weird(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


REFUSED = [
    ("training mode", lambda: in_a_row(conv(4, 6, 3), nn.BatchNorm2d(6)), "training mode.*model.eval"),
    (
        "no statistics",
        lambda: in_a_row(conv(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False).eval()),
        "no running statistics",
    ),
    ("reflecting", lambda: in_a_row(conv(4, 6, 1), nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect")), "padding by reflect"),
    ("circular", lambda: in_a_row(nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), norm(6)), "padding by circular"),
    ("transposed", lambda: in_a_row(nn.ConvTranspose2d(4, 6, 3), conv(6, 4, 1)), "transposed convolution"),
    ("uneven same", lambda: in_a_row(nn.Conv2d(4, 6, 2, padding="same"), conv(6, 4, 1)), "more on one side"),
    ("widths", lambda: in_a_row(conv(4, 6, 1), conv(5, 4, 1)), "6 channels are handed to a layer that takes 5"),
    ("ranks", lambda: in_a_row(conv(4, 6, 1), lively(nn.Linear(6, 4))), "mixes linear layers with convolutions"),
    ("nothing", lambda: in_a_row(norm(4), line(4)), "no linear layer or convolution"),
    ("axis", lambda: in_a_row(conv(4, 6, 1), line(6, -1), conv(6, 4, 1)), "features on axis -1.*axis 1"),
    (
        "axis of tokens",
        lambda: in_a_row(lively(nn.Linear(4, 7)), line(7, 1), lively(nn.Linear(7, 4))),
        "features on axis 1.*axis 2",
    ),
    ("own way", lambda: in_a_row(Weird(4, 6, 1), conv(6, 4, 1)), "a way of its own"),
    ("uneven shortcut", lambda: with_shortcut(conv(4, 4, 3)), "different sizes"),
    ("strided shortcut", lambda: with_shortcut(conv(4, 4, 3, 2, 1)), "with stride"),
    ("three", lambda: in_a_row(*(conv(4, 4, 3, 1, 1) for _ in range(3))), "interior"),
]


@pytest.mark.parametrize(("part", "reason"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_does_not_merge_says_why(part, reason):
    shape = (7, 4) if "axis 2" in reason else (4, 9, 9)
    verdict = merge(part(), "none", shape).verdict
    assert not verdict.exact and re.search(reason, str(verdict)), verdict


def test_three_padded_kernels_are_refused_by_the_strip_too():
    found = merge(in_a_row(*(conv(4, 4, 3, 1, 1) for _ in range(3))), "border_strip", (4, 9, 9))
    assert "repaired by a strip already" in found.verdict.reason


def test_a_wrong_merge_is_caught_by_its_check():
    """The proof looks at outputs: a layer that reads as one map and computes another does not pass."""
    part = in_a_row(lively(nn.Linear(4, 4)), lively(nn.Linear(4, 4)))
    part.layers[1].register_forward_hook(lambda module, args, y: y + 0.001)
    assert "differs by" in merge(part, "none", (4,)).verdict.reason


def test_refusals_are_not_swallowed_inside_the_algebra():
    with pytest.raises(Refusal, match="in the interior alone"):
        compose(read(conv(4, 4, 3, 1, 1), 2), read(conv(4, 4, 3, 1, 1), 2))
