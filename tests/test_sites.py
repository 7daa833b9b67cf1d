"""Sites: every activation has a module of its own, in the order of execution, and the network computes what it did."""

import copy
import math

import pytest
import torch
from planted import BY_NAME, answer
from torch import nn
from torch.nn import functional as F

from delayer.activations.counting import counting_batches, normal_of, observe_sites
from delayer.activations.normal import from_norm
from delayer.activations.separate import separate_
from delayer.activations.sites import sites_
from delayer.activations.switches import Switches
from delayer.errors import DataError, ModelError, NotFiniteError
from delayer.families import chain_of
from delayer.metrics.activations.easier import easier, easier_released
from delayer.network.chain import Chain, Family
from delayer.tasks.splits import Batch

X = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))


def chain_over(model: nn.Module, axis: int = 1) -> Chain:
    """A chain without blocks: sites need none."""
    torch.manual_seed(0)
    return Chain(model.eval(), Family("own", (), "", axis, "mean"), ())


def batches(x=X, size=4) -> list[Batch]:
    return [Batch(x[k : k + size].clone(), None, k) for k in range(0, len(x), size)]


def found(model: nn.Module, x=X, axis: int = 1):
    chain = chain_over(model, axis)
    return chain, sites_(chain, x[:4])


class Calls(nn.Module):
    """One function between two layers."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 5), nn.Linear(5, 3), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


class Shared(nn.Module):
    """One ReLU that two places call, as in torchvision's ResNet."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 5), nn.Linear(5, 5), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.b(self.act(self.a(x))))


class Everything(nn.Module):
    """Calls in place and not, modules used twice, an argument that nobody gives, dropout by function."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.slopes = nn.Linear(6, 6), nn.ReLU(inplace=True), nn.PReLU()

    def forward(self, x, mask=None):
        if mask is not None:
            x = x + mask
        x = F.dropout(F.relu(self.a(x)), 0.5, training=self.training)
        y = self.a(self.act(self.a(x)))
        F.relu(y, inplace=True)
        y = y + self.slopes(self.a(y) - 1)
        return self.slopes(self.act(y) - 1) + F.leaky_relu(y - 1, 0.2) + (y - 1).relu() + F.gelu(y, approximate="tanh")


MODULES = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
CALLS = {
    "F.relu": F.relu,
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "F.relu6": F.relu6,
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "F.gelu": F.gelu,
    "F.silu": F.silu,
    "F.hardswish": F.hardswish,
    "F.gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "by name": lambda x: F.relu(input=x),
}


@pytest.mark.parametrize("kind", MODULES)
def test_finds_modules_of_every_kind(kind):
    _, sites = found(nn.Sequential(nn.Linear(6, 5), MODULES[kind](), nn.Linear(5, 3)))
    assert [(s.path, s.kind, s.num_features, s.positions, s.norm, s.block) for s in sites] == [("1", kind, 5, 1, None, None)]


@pytest.mark.parametrize("name", CALLS)
def test_calls_become_modules_and_nothing_else_changes(name):
    model = Calls(CALLS[name])
    expected, state = answer(model, X), list(model.state_dict())
    _, (site,) = found(model)
    assert torch.equal(answer(model, X), expected) and list(model.state_dict()) == state
    assert site.kind == site.path.removesuffix("_1") and site.num_features == 5
    model.get_submodule(site.path).register_forward_hook(lambda module, args, output: output + 1)
    assert not torch.allclose(answer(model, X), expected)


@pytest.mark.parametrize(
    "name",
    [
        "GELUActivation",
        "NewGELUActivation",
        "FastGELUActivation",
        "QuickGELUActivation",
        "PytorchGELUTanh",
        "GELUTanh",
        "SiLUActivation",
    ],
)
def test_finds_wrapped_activations_of_hugging_face(name):
    activations = pytest.importorskip("transformers.activations")
    if not hasattr(activations, name):
        pytest.skip("this version of transformers calls it otherwise")
    _, (site,) = found(nn.Sequential(nn.Linear(6, 5), getattr(activations, name)(), nn.Linear(5, 3)))
    assert site.path == "1" and site.kind in ("gelu", "silu")


def test_a_shared_module_gives_each_use_its_own_entropy():
    model = Shared()
    with torch.no_grad():
        model.a.bias.fill_(100)  # the first use is always on
        model.b.bias.copy_(-model.b.weight.sum(1) * 100)
    expected = answer(model, X)
    chain, (first, second) = found(model)
    assert (first.path, second.path) == ("act", "relu_1") and torch.equal(answer(model, X), expected)
    stats = observe_sites(chain, (first, second), batches())
    assert easier(stats[first.path]) == 0 and easier(stats[second.path]) > 0.3
    assert stats["act"].num_rows == stats["relu_1"].num_rows == len(X)


def test_one_object_that_stands_in_two_places_is_two_sites():
    act = nn.PReLU()
    model = nn.Sequential(nn.Linear(6, 5), act, nn.Linear(5, 5), act)
    chain, sites = found(model)
    assert [s.path for s in sites] == ["1", "3"] and model[1] is not model[3] and model[1].weight is model[3].weight
    model[3].register_forward_hook(lambda *_: pytest.fail("hooks are shared"))
    model[1](X[:, :5])


def test_separating_keeps_the_function_in_both_modes_and_in_copies():
    torch.manual_seed(0)
    model = Everything().eval()
    expected = answer(model, X)
    state = copy.deepcopy(model.state_dict())
    _, sites = found(model)
    assert [s.path for s in sites] == [
        "relu_1",
        "act",
        "relu_2",
        "slopes",
        "relu_3",
        "prelu_1",
        "leaky_relu_1",
        "relu_4",
        "gelu_1",
    ]
    twin = copy.deepcopy(model)
    assert torch.equal(answer(model, X), expected) and torch.equal(answer(twin, X), expected)
    twin.relu_1 = nn.Identity()
    assert not torch.equal(answer(twin, X), expected) and torch.equal(answer(model, X), expected)
    assert twin.prelu_1.weight is twin.slopes.weight is not model.slopes.weight
    model.load_state_dict(state, strict=False)  # the second use of the slopes lists them again
    assert set(model.state_dict()) - set(state) == {"prelu_1.weight"}
    plain, again = Everything(), Everything()
    again.load_state_dict(plain.state_dict())
    separate_(again)
    for one in (plain, again):
        one.train()
    draws = []
    for one in (plain, again):
        torch.manual_seed(5)
        draws.append((one(X.clone()), one(X.clone())))
    assert torch.equal(draws[0][0], draws[1][0]) and not torch.equal(draws[0][0], draws[0][1])
    assert separate_(again) == []


def test_a_container_that_runs_one_activation_twice_gets_a_second_one_and_others_stay():
    torch.manual_seed(0)
    act, x = nn.ReLU(), torch.randn(3, 4)
    twice, once = nn.Sequential(act, nn.Linear(4, 4), act), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    expected = twice(x)
    assert len(separate_(twice)) == 1 and torch.equal(twice(x), expected)
    assert separate_(once) == [] and type(once) is nn.Sequential


def test_sites_come_in_the_order_of_execution():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.layer = nn.ReLU(), nn.GELU(), nn.Linear(6, 6)

        def forward(self, x):
            return self.last(self.layer(self.first(x)))

    assert [s.path for s in found(Backwards())[1]] == ["first", "last"]


def test_only_what_runs_is_a_site():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    model.spare = nn.Identity()
    model.spare.act = nn.ReLU()
    assert [s.path for s in found(model)[1]] == ["1"]


# -- norms ---------------------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    """A ResNet block: its second ReLU reads the sum, not the second norm."""

    def __init__(self, in_place: bool):
        super().__init__()
        self.in_place = in_place
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=in_place)

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.in_place:
            y += x
        else:
            y = y + x
        return self.relu(y)


@pytest.mark.parametrize("in_place", [True, False])
def test_the_second_relu_of_a_resnet_block_never_takes_the_norm(in_place):
    model, x = BasicBlock(in_place), torch.randn(6, 4, 5, 5)
    with torch.no_grad():
        model.bn2.bias.fill_(50)
    chain, (first, second) = found(model, x)
    assert first.norm == "bn1" and second.norm is None and first.positions == 25 and first.num_features == 4
    stats = observe_sites(chain, (first, second), batches(x + 7))
    torch.testing.assert_close(normal_of(chain, first, stats.get).mean, from_norm(model.bn1).mean)
    assert not torch.allclose(normal_of(chain, second, stats.get).mean, from_norm(model.bn2).mean, atol=1)
    assert (normal_of(chain, second, stats.get).mean - 57).abs().max() < 2


def test_a_norm_in_training_mode_is_watched_in_evaluation_mode_and_stays_as_it_was():
    model, x = BasicBlock(True), torch.randn(6, 4, 5, 5)
    chain, sites = found(model, x)
    expected = observe_sites(chain, sites, batches(x))
    model.train()
    model.bn2.eval()
    before = copy.deepcopy(model.state_dict())
    stats = observe_sites(chain, sites, batches(x))
    for path, stat in stats.items():
        assert torch.equal(stat.counts(), expected[path].counts())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and model.bn1.training and not model.bn2.training


def test_a_norm_without_running_statistics_is_refused():
    model, x = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()), torch.randn(6, 4, 5, 5)
    chain, sites = found(model, x)
    with pytest.raises(ModelError, match="1 .*no running statistics.*depend on the batch"):
        observe_sites(chain, sites, batches(x))


# -- one pass ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 10])
def test_any_batches_give_the_same(size):
    chain, sites = found(Shared().double(), X.double())
    one, other = (observe_sites(chain, sites, batches(X.double(), size=k), batch_size=4) for k in (size, 4))
    for path in one:
        assert torch.equal(one[path].counts_by_chunk(), other[path].counts_by_chunk())
        for a, b in zip(one[path].best_line(), other[path].best_line(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_sees_inputs_before_an_activation_in_place_overwrites_them():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    chain, sites = found(model)
    z = model[0](X).detach().double()
    stat = observe_sites(chain, sites, batches())["1"]
    assert torch.equal(stat.counts()[0], (z < 0).sum(0)) and (z < 0).any()
    torch.testing.assert_close(stat.normal().mean, z.mean(0))


def test_statistics_change_with_the_weights():
    chain, sites = found(Shared())
    before = observe_sites(chain, sites, batches())["relu_1"].counts()
    state = chain.model.state_dict()
    chain.model.load_state_dict({name: -value for name, value in state.items()})
    assert not torch.equal(observe_sites(chain, sites, batches())["relu_1"].counts(), before)


def test_padding_is_left_out():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.act = nn.Embedding(50, 6), nn.GELU()

        def forward(self, input_ids, attention_mask):
            return self.act(self.embed(input_ids).masked_fill(attention_mask[..., None] == 0, torch.nan))

    ids, mask = torch.randint(0, 50, (4, 7), generator=torch.Generator().manual_seed(0)), torch.ones(4, 7, dtype=torch.long)
    mask[1, 3:] = mask[2, :2] = 0
    chain = chain_over(Padded(), axis=-1)
    inputs = {"input_ids": ids, "attention_mask": mask}
    (site,) = sites_(chain, inputs)
    stat = observe_sites(chain, (site,), [Batch(inputs, None, 0)])["act"]
    z = chain.model.embed(ids)[mask.bool()].detach().double()
    assert stat.num_rows == len(z) == 22
    torch.testing.assert_close(stat.normal().mean, z.mean(0))


def test_samples_and_positions_may_share_a_dimension_and_tables_are_no_sites():
    class Joined(nn.Module):
        """As OPT does; and an activation of a table of positions, as Swin's second version has."""

        def __init__(self):
            super().__init__()
            self.a, self.table, self.act, self.other = nn.Linear(6, 5), nn.Parameter(torch.randn(1, 3, 5)), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            y = self.act(self.a(x.reshape(-1, 6))).view(*x.shape[:2], 5)
            return y + self.other(self.table)

    x = torch.randn(5, 3, 6)
    for num in (1, 4):
        chain = chain_over(Joined(), axis=-1)
        (site,) = sites_(chain, x[:num])
        assert (site.path, site.positions, site.num_features) == ("act", 3, 5)
    stats = [observe_sites(chain, (site,), batches(x, size), batch_size=2)["act"] for size in (2, 5)]
    assert stats[0].num_rows == 15 and torch.equal(stats[0].counts_by_chunk(), stats[1].counts_by_chunk())


def test_hooks_go_away_also_after_an_exception():
    chain, sites = found(Shared())
    bad = X.clone()
    bad[5, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="NaN or infinity reaches the activation act, in samples 4 to 7"):
        observe_sites(chain, sites, batches(bad))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in chain.model.modules())


def test_nothing_to_watch_is_refused():
    chain, sites = found(Shared())
    with pytest.raises(DataError, match="empty"):
        observe_sites(chain, sites, [])


def test_counts_in_training_mode_with_every_forward_pass_as_a_batch():
    """EASIER as released: the norms use each batch's own statistics, and entropies are means over batches."""
    model, x = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU()), X + 3
    chain, sites = found(model, x)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([-9.0, -0.5, 0, 0.5, 9]))
    model.train()
    with counting_batches(chain, sites) as stats:
        for batch in x.split(5):
            model(batch).sum().backward()
    z = torch.stack([model[:2](batch) for batch in x.split(5)]).detach()
    found_counts = stats["2"].counts_by_chunk()
    assert torch.equal(found_counts[:, 2], (z > 0).sum(1)) and stats["2"].num_rows == 10
    per_batch = [[h2(float(p)) for p in (batch >= 0).float().mean(0)] for batch in z]
    assert easier_released(stats["2"]) == pytest.approx(sum(map(sum, per_batch)) / 10)
    assert easier_released(stats["2"]) != easier_released(observe_sites(chain, sites, batches(x))["2"])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def h2(p: float) -> float:
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


# -- refusals ------------------------------------------------------------------------------------------------------------


def test_a_network_without_activations_is_refused():
    with pytest.raises(ModelError, match="Sequential runs no activation that delayer knows.*relu.*prelu"):
        found(nn.Sequential(nn.Linear(6, 5), nn.Tanh()))


def test_untraceable_control_flow_is_refused_by_name():
    class Deciding(Calls):
        def forward(self, x):
            x = F.relu(self.a(x))
            return self.b(x) if x.sum() > 0 else self.b(-x)

    model = nn.Sequential(nn.Linear(6, 6), Deciding(None))
    expected = answer(model, X)
    with pytest.raises(
        ModelError,
        match=r"Deciding at 1 calls its activations.*cannot be traced.*symbolically traced "
        r"variables.*Give it activation modules",
    ):
        found(model)
    assert torch.equal(answer(model, X), expected) and "relu_1" not in dict(model.named_modules())


def test_an_argument_that_tracing_knew_nothing_of_is_refused():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Everything()

        def forward(self, x):
            return self.inner(x, mask=x)

    with pytest.raises(ModelError, match="Everything gets an argument mask"):
        found(Outer())


def test_a_forward_that_computes_something_else_once_traced_is_refused():
    class Counting(Calls):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return self.b(F.relu(self.a(x))) * self.calls

    model = Counting(None)
    with pytest.raises(ModelError, match="^Counting computes something else once its forward pass is traced"):
        found(model)
    assert type(model) is Counting and list(dict(model.named_children())) == ["a", "b"]


def test_uses_that_differ_between_the_modes_are_refused():
    class Moody(Calls):
        def forward(self, x):
            x = F.relu(self.a(x))
            return self.b(F.gelu(x) if self.training else x)

    with pytest.raises(ModelError, match="2 activations .* in training mode and 1 in evaluation mode"):
        found(Moody(None))


def test_slopes_that_only_the_forward_pass_knows_are_refused():
    class Slopes(Calls):
        def forward(self, x):
            return self.b(F.leaky_relu(self.a(x), x.mean()))

    with pytest.raises(ModelError, match="leaky_relu is called with .*which only the forward pass knows"):
        found(Slopes(None))


def test_one_module_that_two_others_call_is_refused():
    class User(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.layer, self.borrowed = nn.Linear(6, 6), [act]

        def forward(self, x):
            return self.borrowed[0](self.layer(x))

    act = nn.ReLU()
    model = nn.Sequential(User(act), User(act))
    model.act = nn.Identity()
    model.act.inner = act
    model._modules["act"].forward = lambda x: x
    with pytest.raises(ModelError, match="act.inner is called by 0 and by 1, so its uses cannot be told apart"):
        found(model)


# -- real families ---------------------------------------------------------------------------------------------------------


def timm_swin_t():
    import timm

    return timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        embed_dim=8,
        num_heads=(1, 1, 2, 2),
        window_size=2,
        num_classes=5,
    )


def torchvision(name: str, **more):
    import torchvision.models as models

    return lambda: getattr(models, name)(num_classes=5, **more)


FAMILIES = {
    "resnet18": (torchvision("resnet18"), 32, 17, 9),
    "mobilenet_v2": (torchvision("mobilenet_v2", width_mult=0.25), 32, 35, 35),
    "vgg features": (lambda: BY_NAME["torchvision-vgg"].build(), 32, 6, 0),
    "swin": (timm_swin_t, 32, 12, 0),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_real_networks_have_their_sites(name):
    build, size, num_sites, num_normed = FAMILIES[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(3, 3, size, size)
    expected, state = answer(model, x), list(model.state_dict())
    chain = chain_of(model, x)
    sites = sites_(chain, x)
    assert len(sites) == num_sites and sum(s.norm is not None for s in sites) == num_normed
    assert torch.equal(answer(model, x), expected) and list(model.state_dict()) == state
    stats = observe_sites(chain, sites, [Batch(x, None, 0)])
    for site in sites:
        assert stats[site.path].num_rows == 3 * site.positions
        assert stats[site.path].counts().shape[1] == site.num_features


def test_vgg16_has_thirteen_sites_in_its_features_and_two_in_its_head():
    from torchvision.models.vgg import VGG, cfgs, make_layers

    with torch.device("meta"):
        model = VGG(nn.Identity(), init_weights=False)
    model.features = make_layers([v if v == "M" else v // 16 for v in cfgs["D"]], batch_norm=True)
    model.classifier = nn.Sequential(
        nn.Linear(32 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(True), nn.Linear(8, 5)
    )
    sites = found(model, torch.randn(4, 3, 32, 32))[1]
    assert [s.path.split(".")[0] for s in sites] == ["features"] * 13 + ["classifier"] * 2
    assert [s.norm is not None for s in sites] == [True] * 13 + [False] * 2


@pytest.mark.parametrize("name", ["bert", "roberta", "hf-vit", "hf-swin", "llama", "gpt2", "timm-vit", "timm-convnext"])
def test_transformers_have_one_site_a_block(name):
    case = BY_NAME[name]
    chain = chain_of(case.build(), case.inputs())
    expected = answer(chain.model, case.inputs())
    sites = sites_(chain, case.inputs())
    assert [s.block for s in sites] == list(range(chain.num_blocks)) and all(s.norm is None for s in sites)
    assert torch.equal(answer(chain.model, case.inputs()), expected)


@pytest.mark.parametrize(("conv_mlp", "axis"), [(True, 1), (False, -1)])
def test_features_are_last_behind_linear_layers_also_in_a_network_of_images(conv_mlp, axis):
    import timm

    model = timm.create_model("convnext_atto", conv_mlp=conv_mlp, depths=(1, 2, 1, 1), dims=(4, 8, 8, 8), num_classes=5)
    x = torch.randn(2, 3, 64, 64)
    sites = sites_(chain_of(model.eval(), x), x)
    assert [s.axis for s in sites] == [axis] * 5 and [s.num_features for s in sites] == [16] + [32] * 4


@pytest.mark.parametrize("name", ["timm-resnet", "timm-mobilenetv2", "hf-resnet"])
def test_norms_of_other_libraries_are_found(name):
    case = BY_NAME[name]
    sites = sites_(chain_of(case.build(), case.inputs()), case.inputs())
    assert sum(s.norm is not None for s in sites) > len(sites) // 2
    if "resnet" in name:
        last = [s for s in sites if s.block == 2][-1]
        assert last.norm is None


def test_an_activation_without_rows_has_no_mean():
    for ask in (Switches("relu").normal, Switches("relu").best_line):
        with pytest.raises(DataError, match="No input of this relu was seen.*Give it at least one row"):
            ask()
