"""Shrinking: published choices against literal twins, rounds that leave no trace, and a kill that changes nothing."""

import functools
import math
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from planted import BY_NAME, answer, gap
from torch import nn
from torch.nn import functional as F

from delayer.activations.sites import sites_
from delayer.cutting import Plan, apply_
from delayer.edits.linearise import Linearise
from delayer.errors import DelayerError, ModelError, StudyError, UnknownName
from delayer.families import chain_of
from delayer.merging import folded, in_a_row
from delayer.metrics.activations.easier import easier
from delayer.network.hashing import model_hash
from delayer.search.fusing import fusions
from delayer.shrinking import ShrinkOptions, merge_faster_, num_kernels, racing, rounds, schedules, shrink
from delayer.shrinking.look import Look
from delayer.shrinking.schedules.folding import Sloped
from delayer.shrinking.schedules.nepenthe import budgets, pruned
from delayer.stages import CompareOptions
from delayer.store import load, save
from delayer.store.proof import reload_proof
from delayer.tasks import evaluate, predictions, task_of
from delayer.tuning import TuneOptions, tune_


class Block(nn.Module):
    """Two activations, the second behind a sum; the first calls a function, as many networks do."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x + self.second(F.relu(self.norm(self.first(x)))))


@pytest.fixture(scope="module")
def digits():
    """A small network trained on real digits, and the task."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x[:900], dtype=torch.float32) / 8 - 1, torch.tensor(y[:900])
    batches = list(zip(x.split(25), y.split(25), strict=True))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), Block(), Block(), Block(), nn.Linear(16, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(12):
        for inputs, labels in batches[:20]:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.eval(), task_of(batches[:10], batches[20:26], batches[30:])


def chain_and_task(digits):
    model, task = digits
    model = deepcopy(model)
    return chain_of(model, task.batches("fit")[0].inputs), task


def shrunk(digits, folder=None, *, on_round=None, progress=None, seed=0, **options):
    chain, task = chain_and_task(digits)
    asked = ShrinkOptions(**({"tolerance": 100, "remove": 3, "learning_rate": 0.01} | options))
    return shrink(
        chain, task, asked, example=task.batches("fit")[0].inputs, folder=folder, on_round=on_round, progress=progress, seed=seed
    )


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def two_a_round(digits):
    """Three activations gone in two rounds, by a schedule, made once."""
    return functools.cache(lambda name: shrunk(digits, schedule=name, a_round=2, fill=True))


@pytest.mark.parametrize("name", [*schedules])
def test_every_schedule_removes_what_it_is_asked_to(digits, two_a_round, name):
    small, edits, done = two_a_round(name)
    assert done.num_sites == 6 and done.num_removed == len(edits) == 3 and done.num_epochs == 2
    assert [len(one.sites) for one in done.rounds] == [2, 1] and all(one.kept for one in done.rounds)
    assert len(sites_(small, torch.zeros(2, 64))) == 3
    assert done.grade.value == evaluate(small.model, digits[1]).value


@pytest.mark.parametrize("name", [*schedules])
def test_the_plan_rebuilds_the_network_that_was_shrunk(digits, two_a_round, name):
    small, edits, _ = two_a_round(name)
    chain, task = chain_and_task(digits)
    plan = Plan(model="", model_hash="", num_blocks=chain.num_blocks, edits=edits)
    apply_(chain, plan)
    chain.model.load_state_dict(small.model.state_dict())
    x = task.batches("test")[0].inputs
    assert torch.equal(chain.model.eval()(x), small.model.eval()(x))


def test_a_round_that_is_rolled_back_leaves_no_trace(digits):
    model, _ = digits
    small, edits, done = shrunk(digits, schedule="last", tolerance=0, a_round=6, remove=6, epochs=0)
    assert not edits and not done.rounds[0].kept and done.grade == done.original and done.num_removed == 0
    assert same(small.model, model)
    assert "No activation can go" in done.note and "This is the original network" in done.note


def test_ours_tries_half_as_many_before_it_gives_up(digits):
    _, _, done = shrunk(digits, schedule="ours", tolerance=0.0, a_round=6, remove=6, epochs=0)
    sizes = [len(one.sites) for one in done.rounds]
    first = sizes.index(3)
    assert sizes[0] == 6 and not done.rounds[0].kept and first == 1


def test_a_loss_that_is_not_finite_rolls_the_round_back(digits):
    model, _ = digits
    small, edits, done = shrunk(digits, schedule="last", learning_rate=1e30, weight_decay=0.5, epochs=2)
    assert not edits and not done.rounds[0].kept and same(small.model, model)


def test_the_teacher_stays_as_it_was(digits):
    chain, task = chain_and_task(digits)
    before = deepcopy(chain.model)
    shrink(chain, task, ShrinkOptions(remove=1, tolerance=100), example=task.batches("fit")[0].inputs)
    assert same(chain.model, before)


class _Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def unbroken(digits):
    """What an unbroken run of a schedule gives, made once."""
    return functools.cache(lambda name: shrunk(digits, schedule=name, epochs=2, a_round=1, fill=True))


KILLS = [(name, when) for name in ("ours", "nepenthe", "folding") for when in (1, 15, 26)]


@pytest.mark.parametrize(
    "name, when", [pytest.param(*kill, marks=[] if number % 4 == 0 else pytest.mark.slow) for number, kill in enumerate(KILLS)]
)  # each schedule and each moment once
def test_a_kill_at_any_moment_changes_nothing(digits, unbroken, tmp_path, name, when):
    """`when`: training steps until the kill, in the first round, between checkpoints, in a later round."""
    options = dict(schedule=name, epochs=2, a_round=1, fill=True)
    whole, _, expected = unbroken(name)
    steps = 0

    def kill(done, of):
        nonlocal steps
        steps += 1
        if steps == when:
            raise _Killed

    with pytest.raises(_Killed):
        shrunk(digits, tmp_path, progress=kill, **options)
    again, _, found = shrunk(digits, tmp_path, **options)
    assert same(again.model, whole.model)
    assert [one.model_copy(update={"seconds": 0}) for one in found.rounds] == [
        one.model_copy(update={"seconds": 0}) for one in expected.rounds
    ]
    assert (tmp_path / "rounds.jsonl").read_text().count("\n") == 3


def test_a_folder_of_another_run_is_refused(digits, tmp_path):
    shrunk(digits, tmp_path, schedule="last", remove=1, epochs=0)
    with pytest.raises(StudyError, match="another shrinking: its schedule differ"):
        shrunk(digits, tmp_path, schedule="random", remove=1, epochs=0)


def test_a_schedule_that_nobody_knows_is_refused(digits):
    with pytest.raises(UnknownName, match="no schedule 'easyer'. Did you mean easier"):
        shrunk(digits, schedule="easyer")


def test_a_network_without_activations_is_refused(digits):
    model = nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10))
    _, task = digits
    x = task.batches("fit")[0].inputs
    with pytest.raises(ModelError, match="runs no activation"):
        shrink(chain_of(model, x), task, example=x)


def looking(digits, **options) -> Look:
    chain, task = chain_and_task(digits)
    sites = sites_(chain, task.batches("fit")[0].inputs)
    return Look(
        chain,
        chain,
        sites,
        task,
        ShrinkOptions(**options),
        number=1,
        seed=0,
        reference=predictions(chain.model, task.batches("validation")),
        masks={},
        tune_=lambda *_: True,
    )


def test_a_look_measures_without_a_trace(digits):
    look = looking(digits)
    before, plain = deepcopy(look.chain.model), look.grade()
    changed = look.measure([look.edit(site, "identity") for site in look.sites])
    assert changed.value < plain.value and changed.kl > 0 and look.grade() == plain
    assert same(look.chain.model, before)
    assert [type(look.chain.model.get_submodule(s.path)) for s in look.sites] == [nn.ReLU] * 6


def test_the_loss_is_the_cross_entropy(digits):
    model, task = digits
    batches = list(task.batches("validation"))
    with torch.no_grad():
        literal = torch.cat([F.cross_entropy(model(b.inputs), b.labels, reduction="none") for b in batches]).mean()
    assert looking(digits).loss() == pytest.approx(float(literal), rel=1e-5)


def test_easier_takes_the_lowest_entropy(digits):
    look = looking(digits)
    [edit], why = schedules["easier"].choose(look, 1)
    entropies = {}
    for site in look.sites:
        inputs = []
        hook = look.chain.model.get_submodule(site.path).register_forward_pre_hook(lambda m, a, i=inputs: i.append(a[0]))
        with torch.no_grad():
            for batch in look.task.batches("fit"):
                look.chain.model(batch.inputs)
        hook.remove()
        z = torch.cat(inputs)
        p = (z > 0).double().sum(0) / (z != 0).double().sum(0)
        entropies[site.path] = float(torch.nan_to_num(-(p * p.log2()) - (1 - p) * (1 - p).log2()).mean())
    assert edit.site == min(entropies, key=entropies.get) and f"{min(entropies.values()):.3f}" in why
    assert edit.mode == "identity"


def test_tlc_removes_the_smallest_gap_or_the_first_set_that_crosses_zero(digits):
    look = looking(digits, a_round=6)
    edits, _ = schedules["tlc"].choose(look, 6)
    loss = look.loss()
    gaps = {site: look.loss([look.edit(site, "sign")]) - loss for site in look.sites}
    order = sorted(look.sites, key=gaps.get)
    joint = [look.loss([look.edit(s, "sign") for s in order[:k]]) - loss for k in range(1, 7)]
    count = 1 if joint[0] >= 0 else next((k + 1 for k in range(1, 6) if joint[k] > 0), 1)
    assert [edit.site for edit in edits] == [site.path for site in order[:count]]


def test_nepenthe_shares_its_budget_by_relevance():
    """N = ζ · all; I = H · mean |w|; shares by softmax of ΣI / I; a layer without entropy gives nothing."""
    layers = {"a": (torch.full((100,), 0.2), 0.5), "b": (torch.full((100,), 0.4), 0.5), "c": (torch.ones(100), 0.0)}
    found = budgets(layers, 0.2)
    relevance = [0.3 / 0.1, 0.3 / 0.2]
    parts = [math.exp(r - relevance[0]) for r in relevance]
    assert found == {"a": int(60 * parts[0] / sum(parts)), "b": int(60 * parts[1] / sum(parts))}


def test_a_layer_that_cannot_give_its_share_is_pruned_whole():
    layers = {"small": (torch.full((5,), 0.1), 0.1), "large": (torch.full((95,), 1.0), 1.0)}
    assert budgets(layers, 0.3) == {"small": 5, "large": 25}


def test_pruning_takes_the_smallest_magnitudes_and_never_gives_back():
    weight = torch.tensor([[0.1, -3.0], [0.2, -0.05]])
    mask = pruned(weight, None, 2)
    assert mask.tolist() == [[False, True], [True, False]]
    assert pruned(torch.tensor([[9.0, 3.0], [0.2, 9.0]]), mask, 1).tolist() == [[False, True], [False, False]]


def test_pruned_weights_stay_zero_through_training(digits):
    small, _, _ = shrunk(digits, schedule="nepenthe", fill=True, epochs=2, schedule_options={"zeta": 0.5})
    zeros = {name: int((p == 0).sum()) for name, p in small.model.named_parameters() if p.ndim > 1}
    assert sum(zeros.values()) > 200


def test_a_slope_leads_from_the_activation_to_the_identity():
    sloped, z = Sloped(nn.ReLU(inplace=True), torch.zeros(())), torch.randn(5, 3)
    before = z.clone()
    assert torch.equal(sloped(z), z.relu()) and torch.equal(z, before)
    sloped.slope.data.fill_(1.0)
    assert torch.equal(sloped(z), z)


def test_folding_trains_slopes_towards_one(digits):
    seen = {}
    chain, task = chain_and_task(digits)
    sites = sites_(chain, task.batches("fit")[0].inputs)

    def tune(epochs, penalty):
        seen["at first"] = float(penalty())
        optimizer = torch.optim.SGD([p for n, p in chain.model.named_parameters() if n.endswith("slope")], 0.1)
        for module in (m for m in chain.model.modules() if isinstance(m, Sloped)):
            module.slope.data.fill_(0.1)
        for _ in range(50):
            optimizer.zero_grad()
            penalty().backward()
            optimizer.step()
        return True

    look = Look(chain, chain, sites, task, ShrinkOptions(), number=1, seed=0, reference=None, masks={}, tune_=tune)
    chosen, _ = schedules["folding"].choose(look, 6)
    assert seen["at first"] == pytest.approx(0.25 * 6) and len(chosen) == 6
    assert not any(isinstance(module, Sloped) for module in chain.model.modules())


def test_the_released_form_of_easier_counts_in_training_mode_and_leaves_the_norms_alone(digits):
    look = looking(digits, schedule_options={"variant": "released"})
    before = deepcopy(look.chain.model)
    stats = look.training_stats
    assert same(look.chain.model, before) and not look.chain.model.training
    site, inputs = look.sites[0], []
    model = deepcopy(look.chain.model).train()
    model.get_submodule(site.path).register_forward_pre_hook(lambda m, a: inputs.append(a[0].detach()))
    for batch in look.task.batches("fit"):
        model(batch.inputs)
    entropies = []
    for z in inputs:
        p = (z >= 0).double().mean(0)
        entropies.append(torch.nan_to_num(-(p * p.log2()) - (1 - p) * (1 - p).log2()).mean())
    [edit], why = schedules["easier"].choose(look, 1)
    assert float(torch.stack(entropies).mean()) == pytest.approx(easier(stats[site.path], "released"), rel=1e-6)
    assert f"{min(easier(stats[s.path], 'released') for s in look.sites):.3f}" in why


def test_merging_keeps_the_function_and_only_what_is_faster(digits):
    chain, task = chain_and_task(digits)
    sites_(chain, task.batches("fit")[0].inputs)
    for path in ("1.relu_1", "2.relu_1"):
        Linearise(site=path, mode="identity", num_features=16, axis=-1).apply_(chain)
    x, model = task.batches("test")[0].inputs, deepcopy(chain.model)
    edits, found = merge_faster_(chain, x[:1], seconds=0.2)
    with torch.no_grad():
        gap = (chain.model(x) - model(x)).abs().max() / model(x).abs().max()
    assert gap < 1e-5
    tried = [one for one in found if one.speedup is not None]
    assert tried and all(one.merged == (one.speedup_interval[0] > 1) and one.error < 1e-10 for one in tried)
    assert [(one.path, one.layers) for one in tried if one.merged] == [(edit.path, edit.layers) for edit in edits]
    assert any({"first", "norm", "relu_1", "second"} <= set(one.layers) for one in tried), "the linear block is offered whole"
    again, _ = chain_and_task(digits)
    for path in ("1.relu_1", "2.relu_1"):
        Linearise(site=path, mode="identity", num_features=16, axis=-1).apply_(again)
    for edit in edits:
        edit.apply_(again)
    assert torch.equal(again.model(x), chain.model(x))


def test_tlc_without_data_takes_the_least_error_likelihood_of_the_norms(digits):
    look = looking(digits, schedule_options={"data_free": True})
    [edit], why = schedules["tlc"].choose(look, 1)
    likelihood = {}
    for site in look.sites:
        if site.norm:
            norm = look.chain.model.get_submodule(site.norm)
            mean, deviation = norm.bias.detach().double(), norm.weight.detach().double().abs()
        else:
            mean, deviation = look.stats[site.path].normal().mean, look.stats[site.path].normal().deviation
        likelihood[site.path] = float(torch.distributions.Normal(0.0, 1.0).cdf(-mean.abs() / deviation).mean())
    assert edit.site == min(likelihood, key=likelihood.get) and edit.mode == "sign"
    assert f"{min(likelihood.values()):.3f}" in why


class PlantedBlock(nn.Module):
    """conv, ReLU, conv, sum, ReLU; `always_on` lifts the first ReLU's input so far that it never switches."""

    def __init__(self, width: int, always_on: bool):
        super().__init__()
        kernels = (3, 1) if always_on else (3, 3)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, kernel, padding=kernel // 2) for kernel in kernels)
        nn.init.constant_(self.conv1.bias, 50.0 if always_on else 0.0)
        self.relu = nn.ReLU()

    def forward(self, x):
        return F.relu(x + self.conv2(self.relu(self.conv1(x))))


@pytest.fixture(scope="module")
def pictures():
    """Three blocks, of which the second is one 3×3 convolution in disguise, and a task whose labels are its own answers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *(PlantedBlock(8, number == 1) for number in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 4
        model[-1].weight *= 20
        model[2].conv2.bias -= model[2].conv2.weight.sum((1, 2, 3)) * 200.0
    batches = [(x, model(x).argmax(1).detach()) for x in torch.randn(300, 3, 8, 8).split(20)]
    return model, task_of(batches[:6], batches[8:12], batches[12:])


def in_images(model, x):
    return chain_of(model, x, blocks="[123]", axis=1)


def test_ours_takes_the_layer_with_the_activation(pictures):
    """The block that is one convolution goes first, whole, and costs nothing; its last activation stays."""
    model, task = pictures
    x = task.batches("fit")[0].inputs
    small, edits, done = shrink(in_images(model, x), task, ShrinkOptions(remove=1, epochs=0, tolerance=100), example=x)
    [edit] = edits
    assert (edit.edit, edit.start, edit.stop, edit.operator.tail) == ("replace_span", 1, 2, "relu")
    assert done.num_sites == 6 and done.num_removed == 1 and done.rounds[0].sites == ("2.relu",)
    assert done.grade.kl < 1e-6 and num_kernels(small.model) == num_kernels(model) - 1
    assert len(sites_(small, x)) == 5, "what the convolution ends in can go later on"


def test_a_replaced_block_goes_on_after_a_kill_saves_and_reloads(pictures, tmp_path):
    model, task = pictures
    x = task.batches("fit")[0].inputs

    def run(folder=None, on_round=None):
        return shrink(
            in_images(model, x),
            task,
            ShrinkOptions(remove=3, a_round=1, epochs=1, tolerance=100),
            example=x,
            folder=folder,
            on_round=on_round,
        )

    def kill(one, _):
        if one.number == 2:
            raise _Killed

    whole, edits, done = run()
    assert done.num_removed == 3 and {edit.edit for edit in edits} == {"replace_span", "linearise"}
    with pytest.raises(_Killed):
        run(tmp_path / "state", kill)
    again, found, _ = run(tmp_path / "state")
    assert found == edits and same(again.model, whole.model)
    plan = Plan(model="pictures", model_hash="", num_blocks=3, edits=edits)
    whole.model.delayer_edits = plan.edits
    rebuilt = in_images(deepcopy(model), x)
    apply_(rebuilt, plan)
    rebuilt.model.load_state_dict(whole.model.state_dict())
    assert torch.equal(rebuilt.model.eval()(x), whole.model.eval()(x))


def test_a_merge_races_the_layers_with_their_norms_folded():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)]
    for norm in layers[1::2]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
    part = in_a_row(*layers).double().eval()
    quick, x = folded(part), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    assert [type(layer) for layer in quick.layers] == [nn.Identity, nn.Conv2d, nn.Identity, nn.Conv2d]
    assert torch.allclose(quick(x), part(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("merged_is_faster", [True, False])
def test_a_merge_is_made_only_where_it_beats_its_folded_layers(digits, monkeypatch, merged_is_faster):
    """A clock under which one layer for two beats them or not, and folding a norm always pays; the race is with folded norms."""
    chain, task = chain_and_task(digits)
    sites_(chain, task.batches("fit")[0].inputs)
    Linearise(site="1.relu_1", mode="identity", num_features=16, axis=-1).apply_(chain)
    x, before, raced = task.batches("test")[0].inputs, deepcopy(chain.model), []

    def clock(rival, fused, *_, **__):
        raced.append(rival)
        speedup = 2.0 if merged_is_faster or num_kernels(rival) == 1 else 0.5
        return [SimpleNamespace(original_ms=speedup, cut_ms=1.0, speedup=speedup, speedup_interval=(speedup, speedup))]

    monkeypatch.setattr(racing, "compare_latency", clock)
    merge_faster_(chain, x[:1])
    assert not any(isinstance(layer, nn.BatchNorm1d) for rival in raced if num_kernels(rival) == 2 for layer in rival.layers)
    assert num_kernels(chain.model) == num_kernels(before) - merged_is_faster
    assert any(isinstance(layer, nn.BatchNorm1d) for layer in before.modules())
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in chain.model.modules()), "a norm folds, whoever won"
    with torch.no_grad():
        assert torch.allclose(chain.model(x), before(x), atol=1e-4)


def test_it_stops_at_a_speed_up(pictures):
    """Any network is at least a thousandth as fast, so the first round is the last; none is a thousand times as fast."""
    model, task = pictures
    x = task.batches("fit")[0].inputs

    def run(speedup):
        return shrink(
            in_images(model, x), task, ShrinkOptions(remove=2, a_round=1, epochs=0, tolerance=100, speedup=speedup), example=x
        )[2]

    first, whole = run(1e-3), run(1e3)
    assert first.num_removed == 1 and "times as fast as the original, and 0.001 was asked for" in first.note
    assert whole.num_removed == 2 and all(one.speedup > 0 for one in whole.rounds)


def test_a_warm_optimiser_begins_with_what_it_remembers(digits):
    """The first step of SGD with momentum is rate · (momentum · remembered + gradient)."""
    model, task = digits
    batch = task.batches("fit")[0]
    one = task_of([(batch.inputs, batch.labels)] * 1, [(batch.inputs, batch.labels)])
    options = TuneOptions(
        epochs=1,
        optimizer="sgd",
        learning_rate=1e-3,
        milestones=(9,),
        warmup=0.0,
        clip=math.inf,
        weight_decay=0.0,
        label_weight=1.0,
    )

    def trained(remembered):
        small = deepcopy(model)
        with torch.no_grad():
            small[4].weight.mul_(0.3)  # worse, so that the one step is an improvement and stays
        start, warm = small[4].weight.detach().clone(), {"4.weight": {"momentum_buffer": remembered}}
        tune_(small, one, None, options, warm=warm)
        return start - small[4].weight.detach(), warm["4.weight"]["momentum_buffer"]

    cold, gradient = trained(torch.zeros(10, 16))
    warm, buffer = trained(gradient)
    assert torch.allclose(warm, 1.9 * cold, rtol=1e-3, atol=1e-8) and torch.allclose(buffer, 1.9 * gradient, rtol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("timm-swin", marks=pytest.mark.slow), "bert"])
def test_a_transformer_goes_the_whole_road(name, tmp_path):
    """Two MLPs become one matrix each; a fresh process loads the result and gets the same outputs."""
    case = BY_NAME[name]
    chain = chain_of(load(**case.write(case.build(), tmp_path)), case.inputs())
    draw = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(4):
        if name == "bert":
            mask = torch.ones(4, 7, dtype=torch.long)
            mask[1, 5:] = 0
            x = {"input_ids": torch.randint(1, 60, (4, 7), generator=draw) * mask, "attention_mask": mask}
        else:
            x = torch.randn(4, 3, 16, 16, generator=draw)
        batches.append((x, answer(chain.model, x).argmax(-1)))
    task = task_of(batches[:2], batches[2:3], batches[3:], model=chain.model)
    inputs = task.batches("test")[0].inputs
    small, edits, done = shrink(chain, task, ShrinkOptions(schedule="ours", tolerance=100, remove=2), example=inputs)
    linear = answer(small.model.eval(), inputs)
    gone = {edit.site for edit in edits}
    merged = [edit for edit in fusions(small, inputs)[0] if gone & {f"{edit.path}.{layer}" for layer in edit.layers}]
    assert done.num_removed == 2 and done.num_sites == chain.num_blocks and len(merged) == 2
    for edit in merged:
        edit.apply_(small)
        assert small.model.get_submodule(edit.path).get_submodule(edit.layers[0]).weight.shape[0] < 32
    assert gap(answer(small.model, inputs), linear) < 1e-5 < gap(linear, answer(chain.model, inputs))
    plan = Plan(model=name, model_hash=model_hash(chain.model), num_blocks=chain.num_blocks, edits=(*edits, *merged))
    save(small.model, plan, chain, tmp_path / "small", example=inputs)
    proof = reload_proof(small.model, tmp_path / "small", inputs)
    assert proof.passed and proof.max_abs_difference <= 1e-5, proof


def test_later_rounds_begin_at_the_rate_that_was_left(digits, monkeypatch):
    """Three harmful epochs take the rate to a 27th; the next round begins at a ninth, as there may have been nothing to gain."""
    model, task = digits
    x, rates = task.batches("test")[0].inputs, []

    def tune(small, task, teacher, options, **more):
        rates.append(options.learning_rate)
        return tune_(small, task, teacher, options, **more)

    monkeypatch.setattr(rounds, "tune_", tune)
    shrink(
        chain_of(model, x),
        task,
        ShrinkOptions(schedule="ours", tolerance=1e9, remove=2, a_round=1, epochs=3, learning_rate=1.0),
        example=x,
    )
    assert rates == pytest.approx([1, 1 / 9])


def test_a_comparison_takes_a_schedules_rate_and_refuses_what_is_none():
    options = CompareOptions(schedules="easier, ours", rates="easier=0.001,")
    assert options.rate("easier") == 1e-3 and options.rate("ours") is None
    with pytest.raises(DelayerError, match="'easier=fast' is no rate"):
        CompareOptions(rates="easier=fast").rate("ours")
    with pytest.raises(DelayerError, match="names 'tlc', which is not among"):
        CompareOptions(schedules="ours", rates="tlc=0.1").rate("ours")
