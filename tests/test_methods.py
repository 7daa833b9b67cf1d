"""Published choices of what to cut: RedTest's kept sets, ties, stages that stay, what goes with a layer."""

import json
from itertools import combinations

import pytest
import torch
from planted import BY_NAME, answer, gap, normal
from torch import nn

from delayer.cutting import apply, plan_by_hand
from delayer.errors import BudgetError
from delayer.families import chain_of
from delayer.network.chain import Chain
from delayer.search.budget import Budget
from delayer.search.methods import methods
from delayer.search.methods.rba import rba_spans
from delayer.search.methods.redtest import kept_layers, redtest_spans
from delayer.search.scoring import score
from delayer.study import Score
from delayer.tasks.splits import Batch


def of_blocks(values, num_samples: int = 2560) -> Score:
    return Score(
        name="adjacent_similarity",
        title="",
        shape="blocks",
        values=values,
        labels=(),
        redundant="high",
        unit="",
        source="",
        rows="mean",
        num_samples=num_samples,
        seed=0,
        data="",
    )


def spans(chain: Chain, values, num: int) -> list[str]:
    cut = redtest_spans(chain, of_blocks(values), Budget("blocks", num))
    return [str(edit.spans[0]) for edit in cut]


def test_the_layers_least_like_the_one_before_stay():
    assert kept_layers([0.3, 0.9, 0.2, 0.8, 0.4], [range(5)], 3) == (0, 2, 4)


def test_of_equal_similarities_the_earlier_layer_stays():
    assert kept_layers([0.1, 0.5, 0.5, 0.2, 0.5], [range(5)], 3) == (0, 1, 3)
    assert kept_layers([0.5] * 4, [range(4)], 2) == (0, 1)


def test_a_first_layer_and_fixed_ones_stay_and_count():
    assert kept_layers([None, 0.9, 0.1, 0.2], [range(4)], 2) == (0, 2)
    assert kept_layers([0.1, 0.2, 0.9, 0.3], [range(4)], 2, fixed=[2]) == (0, 2)


def test_a_stage_is_never_empty():
    values, stages = [0.1, 0.2, 0.9, 0.8, 0.3], [range(2), range(2, 4), [4]]
    assert kept_layers(values, stages, 3) == (0, 3, 4)  # and not 0, 1, 4
    with pytest.raises(BudgetError, match="3 have to stay, .*the last of their stage. Remove at most 2") as error:
        kept_layers(values, stages, 2)
    assert error.value.most == 2


@pytest.mark.parametrize("seed", range(20))
def test_no_other_set_with_all_stages_is_less_similar(seed):
    """Brute force over all sets of that size that leave no stage empty."""
    draw = torch.Generator().manual_seed(seed)
    values, stages = torch.rand(8, generator=draw).tolist(), [range(3), range(3, 5), range(5, 8)]
    sets = [s for s in combinations(range(8), 4) if all(set(s) & set(stage) for stage in stages)]
    assert kept_layers(values, stages, 4) == min(sets, key=lambda s: sum(values[k] for k in s))


def test_neighbours_go_together_and_blocks_that_change_the_shape_stay():
    chain = BY_NAME["torchvision-resnet"].chain()
    fixed = [i for i in range(chain.num_blocks) if not chain.blocks[i].removable]
    values = [0.9] * chain.num_blocks
    widths = {chain.blocks[i].out_width for i in range(chain.num_blocks)}
    most = chain.num_blocks - len(fixed) - len(widths - {chain.blocks[i].out_width for i in fixed})
    gone = {i for text in spans(chain, values, most) for i in range(*map(int, text.split(":")))}
    assert len(gone) == most and not gone & set(fixed)
    assert {chain.blocks[i].out_width for i in set(range(chain.num_blocks)) - gone} == widths
    with pytest.raises(BudgetError, match=f"Remove at most {most}"):
        spans(chain, values, most + 1)


def test_a_bare_convolution_goes_with_its_activation_and_leaves_the_others_weights_alone():
    chain = BY_NAME["torchvision-vgg"].chain()
    kinds = [type(chain.module(i)).__name__ for i in range(chain.num_blocks)]
    convolutions = [i for i, kind in enumerate(kinds) if kind == "Conv2d"]
    values = [None] * chain.num_blocks
    for block, value in zip(convolutions[1:], (0.9, 0.1, 0.8, 0.2, 0.95), strict=True):
        values[block] = value
    second, fourth, last = convolutions[1], convolutions[3], convolutions[5]
    assert spans(chain, values, 3) == [f"{b}:{b + 2}" for b in (second, fourth, last)]
    assert kinds[second + 1] == kinds[last + 1] == "ReLU" and "MaxPool2d" in kinds
    cut = redtest_spans(chain, of_blocks(values), Budget("blocks", 3))
    plan = plan_by_hand(chain, [str(edit.spans[0]) for edit in cut], operator="drop")
    assert plan.edits == cut
    small, x = apply(chain, plan), normal(2, 3, 32, 32)()
    assert answer(small, x).shape == answer(chain.model, x).shape
    before = {tuple(p.flatten()[:4].tolist()) for p in chain.model.parameters()}
    assert {tuple(p.flatten()[:4].tolist()) for p in small.parameters()} < before


def test_planted_identities_are_what_it_drops():
    """The similarity that a network shows on data leads to its planted blocks, and dropping them changes nothing."""
    case = BY_NAME["timm-vit"]
    chain = case.chain()
    x = normal(64, 3, 16, 16)()
    [one] = score(chain, [Batch(x, None, 0)], ["adjacent_similarity"])
    cut = redtest_spans(chain, one, Budget("blocks", 3))
    assert {b for edit in cut for b in edit.gone} == {2, 3, 5}  # block 0 has no layer before it
    small = apply(chain, plan_by_hand(chain, [str(edit.spans[0]) for edit in cut], operator="drop"))
    assert gap(answer(small, x), answer(chain.model, x)) < 1e-5


def test_what_cannot_be_done_is_said():
    chain = BY_NAME["timm-vit"].chain()
    with pytest.raises(BudgetError, match="RedTest removes a number of blocks; 20 % of params was asked for. Use --remove"):
        redtest_spans(chain, of_blocks([0.5] * 6), Budget("params", 0.2))
    with pytest.raises(BudgetError, match="at least 4 samples; the fit split has 3. Give more data .--num-fit"):
        redtest_spans(chain, of_blocks([0.5] * 6, num_samples=3), Budget("blocks", 1))
    with pytest.raises(BudgetError, match="has 6 layers .*each stage keeps one") as error:
        spans(chain, [0.5] * 6, 6)
    assert error.value.most == 5
    one = chain_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.zeros(2, 4))
    with pytest.raises(BudgetError, match="at least two layers to compare; this network has 1"):
        spans(one, [None, None], 1)
    with pytest.raises(BudgetError, match="RBA removes a number of blocks"):
        rba_spans(chain, of_blocks([0.5] * 6), Budget("macs", 0.2))


@pytest.mark.parametrize("name", list(methods))
def test_a_method_states_its_source_and_what_it_reads(name):
    from delayer.edits import edits
    from delayer.fitting.operators import operators
    from delayer.metrics.blocks import metrics

    one = methods[name]
    assert one.title and "arXiv" in one.source and one.operator in (*operators, *edits)
    assert one.metric in metrics if one.metric else one.num_samples < 10_000


# --- the published sets -----------------------------------------------------------------------------------------


@pytest.fixture
def published(data_root) -> dict:
    return json.loads((data_root.parent / "reference/redtest.json").read_text())


@pytest.fixture
def networks(monkeypatch):
    import sys
    from pathlib import Path

    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent / "benchmarks"), *sys.path])
    import networks

    return networks


def as_spans(indices, num_stage: int) -> list[str]:
    """What goes, as spans by hand, of a CIFAR ResNet whose kept blocks are given stage by stage."""
    kept = {num_stage * stage + i for stage, mine in enumerate(indices) for i in mine}
    return [str(block) for block in range(3 * num_stage) if block not in kept]


@pytest.mark.data
def test_resnet56_keeps_the_published_blocks(published, networks):
    chain = chain_of(networks.cifar_resnet56(), torch.zeros(1, 3, 32, 32))
    cut = redtest_spans(chain, of_blocks(published["resnet56_cifar10_adjacent_cka"]), Budget("blocks", 14))
    gone = {block for edit in cut for block in edit.gone}
    kept = [[i for i in range(9) if 9 * stage + i not in gone] for stage in range(3)]
    assert kept == published["kept_blocks"]["resnet56_cifar10"]["indices"]


@pytest.mark.data
def test_vgg19_keeps_the_published_convolutions(published):
    from torchvision.models.vgg import VGG, cfgs, make_layers

    with torch.device("meta"):
        model = VGG(nn.Identity(), init_weights=False)
    model.features, model.avgpool = make_layers(cfgs["E"], batch_norm=True), nn.Identity()
    model.classifier = nn.Linear(512, 10)
    chain = chain_of(model.eval(), torch.zeros(1, 3, 32, 32))
    convolutions = [i for i in range(chain.num_blocks) if isinstance(chain.module(i), nn.Conv2d)]
    values = [None] * chain.num_blocks
    for block, value in zip(convolutions[1:], published["vgg19_cifar10_adjacent_cka"], strict=True):
        values[block] = value
    cut = redtest_spans(chain, of_blocks(values), Budget("blocks", 8))
    gone = {block for edit in cut for block in edit.gone}
    kept = [number for number, block in enumerate(convolutions) if block not in gone]
    assert kept == published["kept_blocks"]["vgg19_cifar10"]["kept_convs"]
    assert {type(chain.module(b)) for b in gone} == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU}
    small = apply(chain, plan_by_hand(chain, [str(edit.spans[0]) for edit in cut], operator="drop"))
    assert small(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.data
@pytest.mark.parametrize("name, num_stage", [("resnet56_cifar10", 9), ("resnet110_cifar10", 18)])
def test_published_cuts_by_hand_have_the_published_costs(published, networks, name, num_stage):
    from delayer.measure import num_macs, num_params

    one, x = published["kept_blocks"][name], torch.zeros(1, 3, 32, 32)
    chain = chain_of(networks.CifarResNet(num_stage).eval(), x)
    small = apply(chain, plan_by_hand(chain, as_spans(one["indices"], num_stage), operator="drop"))
    assert [round(num_params(m) / 1e6, 3) for m in (chain.model, small)] == pytest.approx(one["params_m"], abs=1.1e-3)
    assert [num_macs(m, x) / 1e6 for m in (chain.model, small)] == pytest.approx(one["macs_m"], rel=0.01)


@pytest.mark.data
@pytest.mark.slow
def test_resnet1202_loses_the_published_share_of_its_parameters(published, networks):
    from delayer.measure import num_params

    kept = published["kept_blocks"]["resnet1202_cifar10"]["kept_per_stage"]
    chain = chain_of(networks.CifarResNet(200).eval(), torch.zeros(1, 3, 32, 32))
    small = apply(chain, plan_by_hand(chain, as_spans([range(num) for num in kept], 200), operator="drop"))
    assert 100 * (1 - num_params(small) / num_params(chain.model)) == pytest.approx(97.5, abs=0.1)
