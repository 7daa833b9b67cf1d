"""Blocks solved anew: exact where they can be, never worse than dropping on their own rows, and back from a folder."""

import math
import os
import weakref
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pictures
import pytest
import tiny
import torch
from pictures import Pictures
from planted import BY_NAME, CASES, answer, every_other, gap
from torch import nn
from torch.nn import functional as F

from delayer.cutting import Plan, apply, apply_, plan_by_hand
from delayer.edits import edit_from
from delayer.errors import ModelError, PlanError
from delayer.families import chain_of
from delayer.fitting.batch_norm import fold, takes_bias, unfold_
from delayer.fitting.evidence import Evidence
from delayer.fitting.layer import FEW_SAMPLES, RIDGES, best_ridge, layer_error, solve_layer
from delayer.fitting.prefix import Prefix
from delayer.fitting.streams import Streams
from delayer.network.calling import call, evaluating, output_of
from delayer.network.chain import Chain, Span
from delayer.network.inside_block import form_of, running
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.observing.stats.patch_moments import PatchMoments
from delayer.search import repair
from delayer.search.judging import damage_of
from delayer.search.measuring import measuring
from delayer.search.options import PlanOptions
from delayer.search.repair import forms_of, resolvable, resolved
from delayer.stages.plan import plan_stage
from delayer.stages.work import open_work
from delayer.store import load, save
from delayer.store.proof import reload_proof
from delayer.tasks import TaskOptions, evaluate, task_of

WINDOW = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}


@pytest.fixture
def model() -> Pictures:
    return pictures.network()


@pytest.fixture
def data():
    return task_of(pictures.batches(), kind="image-classification").batches("fit")


@pytest.fixture
def chain(model) -> Chain:
    return chain_of(model, pictures.batches(1, 2)[0])


def with_edits(chain: Chain, *edits: dict) -> Plan:
    plan = plan_by_hand(chain, [])
    return Plan.model_validate(plan.model_dump() | {"edits": edits})


def filled(x, y, window=WINDOW, **more) -> PatchMoments:
    moments = PatchMoments(window, precision="exact", **more)
    moments.update(x, y)
    return moments


# -- moments of patches ------------------------------------------------------------------------------------------------


def some(stride: int = 1):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, 3, 7, 7, generator=generator, dtype=torch.float64) + 2
    return x, torch.randn(
        8,
        4,
        *F.conv2d(x, torch.zeros(1, 3, 3, 3).double(), stride=stride, padding=1).shape[2:],
        generator=generator,
        dtype=torch.float64,
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_a_layer_is_the_slow_least_squares_of_its_patches(stride, ridge):
    """The literal twin: every patch cut out by hand, one row each, and torch.linalg.lstsq."""
    x, y = some(stride)
    padded, rows, targets = F.pad(x, (1, 1, 1, 1)), [], []
    for n in range(len(x)):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                patch = padded[n, :, stride * i : stride * i + 3, stride * j : stride * j + 3]
                rows.append(patch.flatten())
                targets.append(y[n, :, i, j])
    a, b = torch.stack(rows), torch.stack(targets)
    old = torch.randn(4, 27, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    centred = a - a.mean(0)
    energy = centred.square().sum(0)
    root = (ridge * (energy + energy.mean()) / 2).sqrt()
    system = torch.cat([centred, torch.diag(root)])
    right = torch.cat([b - b.mean(0) - centred @ old.T, torch.zeros(27, 4).double()])
    expected = old + torch.linalg.lstsq(system, right).solution.T
    weight, bias = solve_layer(filled(x, y, WINDOW | {"stride": (stride, stride)}), old, ridge=ridge)
    assert torch.allclose(weight, expected, atol=1e-8)
    assert torch.allclose(bias, b.mean(0) - expected @ a.mean(0), atol=1e-8)


def test_the_error_of_a_layer_is_what_running_it_shows():
    x, y = some()
    weight, bias = torch.randn(4, 27).double(), torch.randn(4).double()
    shown = (F.conv2d(x, weight.view(4, 3, 3, 3), bias, padding=1) - y).square().sum()
    assert layer_error(filled(x, y), weight, bias) == pytest.approx(float(shown), rel=1e-10)


def test_moments_do_not_depend_on_how_the_data_came():
    x, y = some()
    whole, parts, left, right = (PatchMoments(WINDOW, precision="exact") for _ in range(4))
    whole.update(x, y)
    for k in (0, 1, 5):
        stop = {0: 1, 1: 5, 5: 8}[k]
        parts.update(x[k:stop], y[k:stop])
    left.update(x[:3], y[:3])
    right.update(x[3:], y[3:])
    left.merge(right)
    again = PatchMoments(WINDOW, precision="exact")
    again.load(left.state())
    for other in (parts, left, again):
        assert other.num_rows == whole.num_rows == 8 * 49
        for found, expected in zip(other.about("zero"), whole.about("zero"), strict=True):
            assert torch.allclose(found, expected, rtol=1e-10, atol=1e-8)


def test_positions_that_do_not_count_change_nothing():
    x, y = some()
    keep = torch.rand(8, 49, generator=torch.Generator().manual_seed(5)) < 0.5
    moments, spoilt = PatchMoments(WINDOW, precision="exact"), PatchMoments(WINDOW, precision="exact")
    moments.update(x, y, keep)
    spoilt.update(x, torch.where(keep.view(8, 1, 7, 7), y, 1e6), keep)
    assert moments.num_rows == int(keep.sum())
    assert all(torch.equal(a, b) for a, b in zip(moments.about("mean"), spoilt.about("mean"), strict=True))


# -- the structure of a block ------------------------------------------------------------------------------------------


def test_the_last_layer_is_found_by_what_is_added(chain, data):
    forms, runs = forms_of(chain, data[0]), []
    assert {(form.last, form.norm, form.tail) for form in forms} == {("conv2", "bn2", "relu")}
    assert [form.layers for form in forms] == [("conv1", "conv2")] * len(forms)
    for index in range(chain.num_blocks):  # also where the addition and the ReLU are done in place
        with evaluating(chain.model), running(chain.module(index), runs.append):
            call(chain.model, data[0].inputs)
        assert torch.allclose(runs[index].total - runs[index].rest, runs[index].last.held)
        assert form_of(runs[index]) == forms[index]
    assert torch.equal(runs[4].rest, runs[4].before[:, :, ::2, ::2])


def test_the_numbers_of_one_block_at_a_time_are_held(chain, data, monkeypatch):
    seen = []

    def noted(run):
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(run))
        return form_of(run)

    monkeypatch.setattr(repair, "form_of", noted)
    assert len(forms_of(chain, data[0])) == len(seen) == chain.num_blocks


def test_a_block_that_never_runs_is_named(chain, data):
    chain.model.blocks.forward = lambda x: x
    with pytest.raises(ModelError, match="Block blocks.0 was never passed"):
        forms_of(chain, data[0])


@pytest.mark.parametrize(("name", "path"), [("timm-vit", "mlp.fc2"), ("llama", "mlp.down_proj")])
def test_the_last_layer_of_a_transformer_is_its_second_mlp_layer(name, path):
    case = BY_NAME[name]
    chain = case.chain()
    batch = task_of([case.inputs()], kind="image-classification" if "vit" in name else "causal-lm").batches("fit")[0]
    assert {(form.last, form.tail) for form in forms_of(chain, batch)} == {(path, "identity")}
    assert resolvable(chain, batch) == set(range(chain.num_blocks))


def test_a_block_of_another_form_is_left_alone_or_refused():
    case = BY_NAME["bert"]
    chain = case.chain()
    batch = task_of([case.inputs()], kind="text-classification").batches("fit")[0]
    assert resolvable(chain, batch) == set()  # its blocks end in a layer norm
    plan = plan_by_hand(chain, ["1"], operator="drop")
    with pytest.raises(ModelError, match="None of the . blocks of Bert.* can be solved anew. Use --repair none"):
        resolved(chain, plan.edits, batch)
    plan = with_edits(chain, {"edit": "resolve_block", "block": 0})
    with pytest.raises(ModelError, match="does not end in shortcut \\+ layer, with nothing or a ReLU behind"):
        apply(chain, plan, data=[batch])


# -- batch norms -------------------------------------------------------------------------------------------------------


def a_norm(**more) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4, **more).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    if norm.affine:
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    return norm


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [None, a_norm(), a_norm(affine=False)], ids=["bare", "norm", "norm-without-scale"])
def test_a_batch_norm_is_folded_and_unfolded_exactly(norm, bias):
    torch.manual_seed(1)
    conv, norm, x = nn.Conv2d(3, 4, 3, padding=1, bias=bias).double(), deepcopy(norm), torch.randn(5, 3, 6, 6).double()
    after = norm or nn.Identity()
    expected = after(conv(x))
    weight, shift = fold(conv, norm)
    folded = F.conv2d(x, weight.view(4, 3, 3, 3), shift, padding=1)
    assert torch.allclose(folded, expected, atol=1e-12)
    new, move = torch.randn(4, 27).double(), torch.randn(4).double() if takes_bias(conv, norm) else torch.zeros(4).double()
    own = F.conv2d(x, new.view(4, 3, 3, 3), padding=1)
    unfold_(conv, norm, new, move, own.mean((0, 2, 3)), own.var((0, 2, 3), correction=0))
    assert torch.allclose(after(conv(x)), own + move[:, None, None], atol=1e-10)
    if norm is not None and norm.affine:  # its statistics are those of what it reads: training mode agrees
        trained = deepcopy(norm).train()(conv(x))
        assert torch.allclose(trained, after(conv(x)), atol=1e-6)


def test_a_batch_norm_that_follows_each_batch_is_refused(chain, data, model):
    plan = with_edits(chain, {"edit": "resolve_block", "block": 2})
    model.train()
    with pytest.raises(ModelError, match="batch norm behind conv2 normalises by each batch.*Call model.eval\\(\\)"):
        apply(chain, plan, data=data)
    with pytest.raises(ModelError, match="no running statistics"):
        fold(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False).eval(), "conv2")


def test_a_grouped_convolution_is_refused():
    with pytest.raises(ModelError, match="Layer conv is a convolution with groups=2"):
        fold(nn.Conv2d(4, 4, 3, groups=2), None, "conv")


# -- solving -----------------------------------------------------------------------------------------------------------


def test_an_uncut_network_stays_as_it_is(chain, data):
    edits = [{"edit": "resolve_block", "block": b, "layers": "all", "ridge": 1e-3} for b in range(7)]
    small = apply(chain, with_edits(chain, *edits), data=data)
    assert gap(answer(small, data[0].inputs), answer(chain.model, data[0].inputs)) < 1e-9


def test_a_planted_block_takes_over_what_was_removed(chain, data, model):
    """Block 2 reads what block 1 read, whose second convolution adds nothing, so block 1 can do all that block 2 did."""
    with torch.no_grad():
        model.blocks[1].conv2.weight.zero_()
        model.blocks[1].bn2.bias.zero_()
        model.blocks[1].bn2.running_mean.zero_()
        for path in ("conv1", "bn1"):
            model.blocks[2].get_submodule(path).load_state_dict(model.blocks[1].get_submodule(path).state_dict())
    plan = plan_by_hand(chain, ["2"], operator="drop")
    dropped = apply(chain, plan)
    plan = with_edits(chain, *plan.edits, {"edit": "resolve_block", "block": 1, "target": 2, "ridge": 0.0})
    small = apply(chain, plan, data=data)
    expected = answer(model, data[0].inputs)
    assert gap(answer(dropped, data[0].inputs), expected) > 1e-2
    assert gap(answer(small, data[0].inputs), expected) < 1e-6
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in dropped.parameters())


@pytest.mark.parametrize("layers", ["last", "all"])
def test_resolving_brings_the_stream_back(chain, data, layers):
    plan = plan_by_hand(chain, ["1:3"], operator="drop")
    whole = plan.model_copy(update={"edits": resolved(chain, plan.edits, data[0], layers=layers)})
    assert [edit.block for edit in whole.edits[1:]] == [0, 3, 4, 5, 6] and whole.edits[1].target == 2
    fresh = pictures.batches(2, seed=9)
    expected = [answer(chain.model, x) for x in fresh]

    def missed(edits) -> float:
        small = apply(chain, plan.model_copy(update={"edits": edits}), data=data)
        return sum(float((answer(small, x) - y).square().mean()) for x, y in zip(fresh, expected, strict=True))

    assert missed(whole.edits) < 0.7 * missed(plan.edits)


@pytest.mark.parametrize("ridge", RIDGES)
def test_on_its_own_rows_it_is_never_worse_than_dropping(chain, data, ridge):
    """The block's total, against the original's behind the removed blocks, on all samples of the fit."""
    plan = plan_by_hand(chain, ["1:3"], operator="drop")
    small = apply(
        chain, with_edits(chain, *plan.edits, {"edit": "resolve_block", "block": 0, "target": 2, "ridge": ridge}), data=data
    )

    def totals(block, call) -> torch.Tensor:
        seen = []
        with torch.no_grad(), running(block, lambda run: seen.append(run.total)):
            for batch in data:
                call(batch.inputs)
        return torch.cat(seen)

    def missed(block) -> float:
        own = totals(block, lambda x: block(F.relu(model.stem(x))))
        return float((totals(model.blocks[2], model) - own).square().sum())

    model = chain.model
    assert missed(small.blocks[0]) <= missed(model.blocks[0]) * (1 + 1e-9)


def test_solving_again_towards_the_same_target_changes_nothing(chain, data):
    """What a block reads does not change when later blocks are solved, so one pass in order is the fixed point."""
    plan = plan_by_hand(chain, ["1:3"], operator="drop")
    edits = resolved(chain, plan.edits, data[0], ridge=0.0)
    copy = chain.copy()
    for edit in edits:
        edit.apply_(copy, Evidence(streams=Streams(copy, chain, data)))
    once = answer(copy.model, data[0].inputs)
    for edit in edits[1:]:
        edit.apply_(copy, Evidence(streams=Streams(copy, chain, data)))
    assert gap(answer(copy.model, data[0].inputs), once) < 1e-8


def test_each_further_sweep_brings_what_shows_behind_the_relu_nearer(chain, data):
    """Alternating projections: on the rows of the fit the error behind the ReLU never grows, and falls at first."""
    chain.model.blocks[2].bn2.bias.data -= 1  # so that the ReLU has something to hide
    plan = plan_by_hand(chain, ["1:3"], operator="drop")
    errors = []
    for sweeps in (1, 2, 3, 5):
        edit = {"edit": "resolve_block", "block": 0, "target": 2, "ridge": 1e-6, "sweeps": sweeps}
        small = apply(chain, with_edits(chain, *plan.edits, edit), data=data)
        with torch.no_grad():
            errors.append(
                sum(
                    float((small.blocks[0](x) - chain.model.blocks[:3](x)).square().sum())
                    for x in (F.relu(chain.model.stem(batch.inputs)) for batch in data)
                )
            )
    assert errors == sorted(errors, reverse=True) and errors[1] < 0.99 * errors[0]


def test_each_further_sweep_brings_what_shows_inside_the_block_nearer(chain, data):
    """The same law for a layer before the last, whose answer the next one reads behind a ReLU."""
    dropped = plan_by_hand(chain, ["1:3"], operator="drop").edits
    errors = []
    for sweeps in (1, 2, 3, 5):
        edit = {"edit": "resolve_block", "block": 3, "layers": "all", "ridge": 1e-6, "sweeps": sweeps}
        small = apply(chain, with_edits(chain, *dropped, edit), data=data)
        block, first = small.blocks[3], chain.model.blocks[3]
        with torch.no_grad():
            errors.append(
                sum(
                    float(
                        (
                            F.relu(block.bn1(block.conv1(small.blocks[:3](x))))
                            - F.relu(first.bn1(first.conv1(chain.model.blocks[:3](x))))
                        )
                        .square()
                        .sum()
                    )
                    for x in (F.relu(chain.model.stem(batch.inputs)) for batch in data)
                )
            )
    assert errors == sorted(errors, reverse=True) and errors[1] < 0.99 * errors[0]


def test_a_relu_in_place_spoils_no_target(chain, data, monkeypatch):
    plan = plan_by_hand(chain, ["1:3"], operator="drop")
    plan = plan.model_copy(update={"edits": resolved(chain, plan.edits, data[0], layers="all", sweeps=2)})
    expected = answer(apply(chain, plan, data=data), data[0].inputs)

    def forward(self, x):
        inner = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)).add_(x), inplace=True)

    monkeypatch.setattr(pictures.PictureBlock, "forward", forward)
    assert torch.equal(answer(apply(chain, plan, data=data), data[0].inputs), expected)


class Far(Pictures):
    """The last block is told what the first one gave, behind the blocks' backs."""

    def forward(self, x):
        first = x = self.blocks[0](F.relu(self.stem(x)))
        for i in range(1, len(self.blocks)):
            x = self.blocks[i](x + first.mean() if i == len(self.blocks) - 1 else x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("case", every_other(CASES, 0))
def test_a_pass_that_begins_in_the_middle_gives_the_same_bits(case):
    """And does no work in the blocks before, from the second time on."""
    chain, x, ran = case.chain(), case.inputs(), []
    batch, prefix = SimpleNamespace(start=0), Prefix(chain)
    for index in range(chain.num_blocks):
        for module in chain.module(index).modules():
            module.register_forward_hook(lambda *_, index=index: ran.append(index))
    with evaluating(chain.model):
        expected = output_of(call(chain.model, x))
        for start in range(chain.num_blocks):
            prefix.start = start - start % 2  # sometimes by two at once
            for _ in range(2):
                ran.clear()
                with prefix.passing(batch):
                    assert torch.equal(output_of(call(chain.model, x)), expected)
            inside = [index for index in ran if index < prefix.start]
            assert len(inside) == len(set(inside))  # the block is called, nothing in it
    assert prefix.knows(batch)


def test_blocks_before_the_beginning_are_not_asked_for(chain, data):
    streams = Streams(chain, chain, data)
    streams.begin_at(3)
    with pytest.raises(ValueError, match="Block 1 is asked for, but passes begin at 3"):
        streams.last_layer(1, 1)


def test_what_finds_no_room_or_tells_blocks_more_than_they_see_runs_in_full(data, monkeypatch):
    for small_memory, kind in ((True, Pictures), (False, Far)):
        model = pictures.network()
        model.__class__ = kind
        chain = chain_of(model, pictures.batches(1, 2)[0])
        plan = plan_by_hand(chain, ["1:3"], operator="drop")
        plan = plan.model_copy(update={"edits": resolved(chain, plan.edits, data[0], layers="all")})
        with monkeypatch.context() as patch:
            patch.setattr(Streams, "begin_at", lambda *_: None)
            expected = answer(apply(chain, plan, data=data), data[0].inputs)
        with monkeypatch.context() as patch:
            if small_memory:  # of six batches two find room
                patch.setattr(Prefix.__init__, "__defaults__", (2 * 10 * 6 * 81 * 8,))
            assert torch.equal(answer(apply(chain, plan, data=data), data[0].inputs), expected)


def test_the_held_out_ridge_is_the_largest_that_is_nearly_the_best():
    x, y = some()
    old = torch.zeros(4, 27).double()
    fit, heldout = filled(x[:5], y[:5]), filled(x[5:], y[5:])
    errors = {r: layer_error(heldout, *solve_layer(fit, old, ridge=r)) for r in RIDGES}
    found = best_ridge(fit, heldout, old)
    assert errors[found] <= 1.03 * min(errors.values()) < min([e for r, e in errors.items() if r > found], default=math.inf)


def test_without_held_out_rows_no_ridge_is_chosen():
    x, y = some()
    assert best_ridge(filled(x, y), filled(x[:0], y[:0]), torch.zeros(4, 27).double()) == FEW_SAMPLES


def test_padding_and_a_share_of_positions_reach_the_fit(chain, data):
    plan = plan_by_hand(chain, ["1"], operator="drop")
    plan = plan.model_copy(update={"edits": resolved(chain, plan.edits, data[0]), "rows": "each:0.5"})
    streams = Streams(chain, chain, data, Rows("each", 0.5))
    fit, heldout, _ = streams.last_layer(0, 0)
    assert 0.4 < (fit.num_rows + heldout.num_rows) / (60 * 81) < 0.6
    assert torch.isfinite(answer(apply(chain, plan, data=data), data[0].inputs)).all()


def test_dropping_a_block_of_tokens_is_mended(tmp_path):
    torch.manual_seed(0)
    model = tiny.network().double()
    chain = chain_of(model, torch.randn(2, 1, 8, 8).double())
    data = task_of([torch.randn(64, 1, 8, 8).double() for _ in range(5)], kind="image-classification").batches("fit")
    plan = plan_by_hand(chain, ["3"], operator="drop")
    whole = plan.model_copy(update={"edits": resolved(chain, plan.edits, data[0], layers="all")})
    x = data[1].inputs
    expected = answer(model, x)
    assert gap(answer(apply(chain, whole, data=data), x), expected) < gap(answer(apply(chain, plan), x), expected)


# -- as an edit --------------------------------------------------------------------------------------------------------


def test_a_repaired_network_is_the_same_in_a_fresh_process(tmp_path, monkeypatch):
    model = pictures.single()
    x = torch.cat(pictures.batches(2)).float()
    data = task_of([x], kind="image-classification").batches("fit")
    chain = chain_of(model, x[:2])
    plan = plan_by_hand(chain, ["5"], operator="conv", tail="relu")
    drop = plan_by_hand(chain, ["1:3"], operator="drop")
    edits = resolved(chain, [*drop.edits, *plan.edits], data[0])
    plan = plan.model_copy(update={"edits": (*edits, edit_from({"edit": "renew_norms"}))})
    small = apply(chain, plan, data=data)
    monkeypatch.setenv("PYTHONPATH", str(Path(pictures.__file__).parent), prepend=os.pathsep)
    save(small, plan, chain, tmp_path / "cut", example=x[:4], factory="pictures:single")
    assert torch.equal(answer(load(str(tmp_path / "cut")), x), answer(small, x))
    proof = reload_proof(small, tmp_path / "cut", x[:4])
    assert proof.passed and proof.max_abs_difference == 0
    assert gap(answer(load(str(tmp_path / "cut")), x), answer(apply(chain, drop), x)) > 1e-3


def test_without_data_the_shapes_are_built_alone(chain):
    plan = with_edits(chain, {"edit": "drop_span", "start": 1, "stop": 3}, {"edit": "resolve_block", "block": 0, "target": 2})
    before = chain.model.blocks[0].conv2.weight.clone()
    small = apply_(chain.copy(), plan, None)
    assert torch.equal(small.blocks[0].conv2.weight, before)
    with pytest.raises(PlanError, match="solved anew for block 2.*nothing to fit on"):
        apply(chain, plan)


def test_norms_counted_anew_are_those_of_the_cut_network(chain, data):
    plan = with_edits(chain, {"edit": "drop_span", "start": 1, "stop": 3}, {"edit": "renew_norms"})
    small, seen = apply(chain, plan, data=data), []
    handle = small.blocks[-1].bn1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for module in small.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        for batch in data:
            small(batch.inputs)
    handle.remove()
    assert torch.allclose(small.blocks[-1].bn1.running_mean, torch.stack([s.mean((0, 2, 3)) for s in seen]).mean(0), atol=0.05)
    assert not chain.model.training and small.blocks[-1].bn1.momentum == 0.1


def test_what_cannot_be_resolved_says_why(chain, data):
    cases = [
        ({"edit": "resolve_block", "block": 3, "target": 2}, "a block can stand for itself and for those behind it"),
        ({"edit": "resolve_block", "block": 9}, "aims at block 9 of 7"),
        ({"edit": "resolve_block", "block": 3, "target": 5}, "Block 3 cannot stand for block 5: it gives"),
    ]
    for edit, message in cases:
        with pytest.raises(PlanError, match=message):
            apply(chain, with_edits(chain, edit), data=data)
    with pytest.raises(PlanError, match="resolve_block 1 is fitted on the stream.*Give data= instead"):
        apply(chain, with_edits(chain, {"edit": "resolve_block", "block": 1}), Moments([]))
    with pytest.raises(PlanError, match="renew_norms is fitted on the stream.*Give data= instead"):
        apply(chain, with_edits(chain, {"edit": "renew_norms"}), Moments([]))


# -- as a stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path):
    return open_work(
        "tiny:network",
        ["digits"],
        out=tmp_path / "study",
        task_options=TaskOptions(num_fit=300, num_validation=200, num_test=100),
    )


def test_a_repair_is_kept_only_where_validation_likes_it(work):
    """Block 2 adds nothing, so dropping it needs no repair; dropping block 4 hurts, and solving anew helps."""
    for span, helps in (("2", False), ("4", True)):
        plan = plan_stage(work, PlanOptions(span=(span,), operator="drop", repair="resolve", try_onnx=False))
        assert (len(plan.edits) > 1) == helps
        grades = [
            damage_of(
                evaluate(
                    apply(work.chain, plan.model_copy(update={"edits": edits}), data=work.task.batches("fit")),
                    work.task,
                    reference=work.reference,
                )
            )
            for edits in (plan.edits, plan.edits[:1])
        ]
        assert grades[0] < 0.8 * grades[1] if helps else grades[0] == grades[1]
        assert any("No closed-form repair" in note for note in work.notes)


def test_a_search_judges_cuts_after_their_repair(work):
    """The same cut is graded better with a repair than without, and the network in memory keeps each weight."""
    before = {name: tensor.clone() for name, tensor in work.model.state_dict().items()}
    cut = plan_by_hand(work.chain, ["4"], operator="drop").edits
    moments = Moments([])
    grades = {repair: measuring(work, moments, PlanOptions(repair=repair), [])(cut).kl for repair in ("none", "resolve")}
    assert grades["resolve"] < 0.8 * grades["none"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in work.model.state_dict().items())
    plan = plan_stage(
        work, PlanOptions(remove="blocks=1", repair="resolve", effort=2, samples=100, repair_samples=100, try_onnx=False)
    )
    assert [edit.spans for edit in plan.edits if edit.removed] == [(Span(2, 3),)]  # adds nothing, so it goes for nothing


def test_what_a_stage_refuses(work):
    with pytest.raises(PlanError, match="conv was given options that do not do: kernel: Input should be 1, 3 or 5"):
        plan_stage(work, PlanOptions(span=("2",), operator="conv", operator_options={"kernel": 4}))
    with pytest.raises(PlanError, match="norms found no batch norm"):
        plan_stage(work, PlanOptions(span=("2",), operator="drop", repair="norms"))
    with pytest.raises(PlanError, match="features lie on axis -1: its blocks do not pass pictures"):
        plan_stage(work, PlanOptions(span=("2",), operator="conv"))


def test_very_few_samples_still_fit(chain):
    few = task_of([pictures.batches(1, 2)[0]], kind="image-classification").batches("fit")
    drop = plan_by_hand(chain, ["1:3"], operator="drop")
    conv = plan_by_hand(chain, ["5"], operator="conv", tail="relu")
    edits = resolved(chain, (*drop.edits, *conv.edits), few[0])
    assert torch.isfinite(answer(apply(chain, drop.model_copy(update={"edits": edits}), data=few), few[0].inputs)).all()
