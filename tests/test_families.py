"""One law for every family: an identity block may go, and nothing changes; any other block may not."""

import dataclasses
import re

import pytest
import torch
from planted import BY_NAME, CASES, DECODERS, Residual, Stages, answer, cut, every_other, gap, normal, sequential, zeros
from torch import Tensor, nn

from delayer.errors import ModelError
from delayer.families import chain_of, families, family_of
from delayer.network.chain import Span
from delayer.observing.one_pass import rows_of
from delayer.observing.rows import Rows
from delayer.search.scoring import score
from delayer.tasks import task_of

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_decoder = pytest.mark.parametrize("case", DECODERS, ids=lambda case: case.name)

# -- what is found ---------------------------------------------------------------------------------------------------


@each_case
def test_a_model_is_recognised_with_its_blocks(case):
    chain = case.chain()
    assert chain.family.name == case.family
    assert tuple((s.start, s.stop) for s in chain.segments) == case.segments
    assert {chain.blocks[i].kind for i in case.planted} == {chain.blocks[case.kept].kind}
    lines = chain.describe().splitlines()
    assert case.family in lines[0] and f"{chain.num_blocks} blocks" in lines[0]
    assert sum(line.startswith("run ") for line in lines) == len(case.segments)
    assert all(any(block.path in line for line in lines) for block in chain.blocks)


@pytest.mark.parametrize(
    "name",
    [
        "timm-vit",
        "timm-swin",
        "timm-resnet",
        "torchvision-mobilenetv2",
        "hf-vit",
        "hf-swin",
        "hf-mobilenetv2",
        "bert",
        "llama",
        "gpt2",
        "sequential",
    ],
)
def test_a_family_makes_up_its_own_inputs(name):
    model = BY_NAME[name].build()
    assert chain_of(model).blocks[0].path == chain_of(model, BY_NAME[name].inputs()).blocks[0].path


def test_made_up_inputs_have_the_precision_of_the_weights():
    assert chain_of(BY_NAME["timm-vit"].build().bfloat16()).num_blocks == 6


def test_each_family_is_told_by_the_class_of_a_model():
    assert {case.family for case in CASES} == {*families, "automatic"}
    assert family_of(nn.Linear(2, 2)) is None

    class Mine(type(BY_NAME["timm-vit"].build())):
        """A class of one's own that inherits from a known one."""

    assert family_of(Mine(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)).name == "timm ViT"


# -- identity may go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", every_other(CASES, 0))
def test_an_identity_block_may_go_and_no_other(case):
    chain, inputs = case.chain(), case.inputs()
    expected = answer(chain.model, inputs)
    spans = case.spans
    for dropped, mapped in ((spans, ()), ((), spans), (spans[:1], spans[1:]), ((), spans[:1]), (spans[-1:], ())):
        assert gap(answer(cut(chain, dropped, mapped), inputs), expected) < 1e-5, (dropped, mapped)
    assert gap(answer(cut(chain, [str(case.kept)]), inputs), expected) > 1e-3
    assert gap(answer(chain.model, inputs), expected) == 0, "the original was touched"


@pytest.mark.parametrize("case", every_other(CASES, 1))
def test_blocks_leave_their_lists_and_the_configuration_follows(case):
    chain = case.chain()
    small = cut(chain, case.spans)
    params = sum(p.numel() for p in small.parameters())
    gone = sum(p.numel() for i in case.planted for p in chain.module(i).parameters())
    assert params == sum(p.numel() for p in chain.model.parameters()) - gone
    config = getattr(small, "config", None)
    if hasattr(config, "depths"):
        lists = dict.fromkeys(block.path.rpartition(".")[0] for block in chain.blocks)
        assert config.depths == [len(small.get_submodule(path)) for path in lists]
        assert sum(chain.model.config.depths) == chain.num_blocks
    elif hasattr(config, "num_hidden_layers"):
        assert config.num_hidden_layers == chain.num_blocks - len(case.planted)
        assert chain.model.config.num_hidden_layers == chain.num_blocks


# -- decoders --------------------------------------------------------------------------------------------------------


def generated(model: nn.Module, inputs, **options) -> tuple[Tensor, Tensor]:
    """Tokens, and logits [token, batch, vocabulary], of a greedy continuation."""
    out = model.generate(**inputs, max_new_tokens=9, do_sample=False, return_dict_in_generate=True, output_logits=True, **options)
    return out.sequences, torch.stack(out.logits)


WAYS_TO_CUT = {
    "dropped": {"dropped": ["0", "2:4", "5"]},
    "stand-in first": {"mapped": ["0", "2:4"], "dropped": ["5"]},
    "stand-ins later": {"mapped": ["3", "5"]},
}


@each_decoder
@pytest.mark.parametrize("way", WAYS_TO_CUT)
def test_generation_stays_with_and_without_a_cache(case, way):
    chain, inputs = case.chain(), case.inputs()
    tokens, logits = generated(chain.model, inputs)
    small = cut(chain, **WAYS_TO_CUT[way])
    for options in ({"use_cache": True}, {"use_cache": False}, {"cache_implementation": "static"}):
        found, scores = generated(small, inputs, **options)
        assert torch.equal(found, tokens), options
        assert gap(scores, logits) < 1e-4, options


@each_decoder
def test_a_cache_changes_nothing_where_a_map_does(case):
    """A map that is no identity: the cache must still hold each token once, also in front of all layers."""
    chain, inputs = case.chain(), case.inputs()
    small = cut(chain, mapped=["0", "3"])
    for name, parameter in small.named_parameters():
        if ".map." in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    tokens, logits = generated(small, inputs, use_cache=True)
    for options in ({"use_cache": False}, {"cache_implementation": "static"}):
        found, scores = generated(small, inputs, **options)
        assert torch.equal(found, tokens) and gap(scores, logits) < 1e-4
    assert gap(answer(small, inputs), answer(chain.model, inputs)) > 1e-3


def test_beams_reorder_the_cache_of_a_stand_in():
    chain, inputs = BY_NAME["llama"].chain(), BY_NAME["llama"].inputs()
    small = cut(chain, mapped=["0", "2:4"])
    found, expected = (model.generate(**inputs, max_new_tokens=6, num_beams=3, do_sample=False) for model in (small, chain.model))
    assert torch.equal(found, expected)


def test_per_layer_lists_keep_the_layers_that_stay():
    """Six layers, the last three with sliding windows; blocks 0, 2, 3 and 5 go."""
    chain = BY_NAME["qwen2-mixed"].chain()
    assert chain.model.config.layer_types == ["full_attention"] * 3 + ["sliding_attention"] * 3
    small = cut(chain, ["0", "2:4", "5"])
    assert small.config.layer_types == ["full_attention", "sliding_attention"]
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1]
    mapped = cut(chain, mapped=["0", "2:4", "5"])
    assert mapped.config.layer_types == ["full_attention"] * 3 + ["sliding_attention"] * 2
    assert [m.layer_idx for m in mapped.model.layers if hasattr(m, "map")] == [0, 2, 4]


def test_gpt2_that_scales_attention_by_its_layers_number_keeps_its_scales():
    """Numbers change when blocks go, and a layer's number is part of what such a network computes."""
    case = BY_NAME["gpt2"]
    case = dataclasses.replace(case, arguments=case.arguments | {"scale_attn_by_inverse_layer_idx": True})
    chain, inputs = case.chain(), case.inputs()
    small = cut(chain, ["0", "2:4"])
    assert [block.attn.layer_idx for block in small.transformer.h] == [0, 1, 2]
    assert gap(answer(small, inputs), answer(chain.model, inputs)) < 1e-5
    for block in chain.model.transformer.h:  # as in releases that divide while they run
        del block.attn.scaling
    with pytest.raises(ModelError, match="divides its attention by the number of the layer.*Install a newer"):
        cut(chain, ["0"])


def test_gpt2_with_an_encoder_generates_the_same():
    case = BY_NAME["gpt2"]
    plant = zeros(r"attn\.c_proj", r"crossattention\.c_proj", r"mlp\.c_proj")
    case = dataclasses.replace(case, arguments=case.arguments | {"add_cross_attention": True}, plant_=plant)
    chain = case.chain()
    inputs = case.inputs() | {"encoder_hidden_states": normal(3, 4, 16)()}
    tokens, logits = generated(chain.model, inputs)
    found, scores = generated(cut(chain, mapped=["0"], dropped=["2:4"]), inputs)
    assert torch.equal(found, tokens) and gap(scores, logits) < 1e-4


def test_a_backbones_stages_are_numbered_anew():
    """DINOv2's configuration names a stage for each layer and the stages that it gives out."""
    case = BY_NAME["hf-dinov2"]
    case = dataclasses.replace(case, arguments=case.arguments | {"out_features": ["stage1", "stage4", "stage6"]})
    small = cut(case.chain(), ["0", "2:4"])
    assert small.config.stage_names == ["stem", "stage1", "stage2", "stage3"]
    assert small.config.out_features == ["stem", "stage1", "stage3"] and small.config.out_indices == [0, 1, 3]


# -- networks that nobody described ------------------------------------------------------------------------------------


def test_the_automatic_fallback_says_what_it_found():
    assert chain_of(Stages(), torch.zeros(2, 8)).describe() == "\n".join(
        [
            "Stages (automatic): 7 blocks, features on axis -1",
            "run 0:3 of width 8",
            *(f"   {i}  stages.0.blocks.{i}  Residual, 144 parameters" for i in range(3)),
            "run 3:7 of width 16",
            *(f"   {i + 3}  stages.1.blocks.{i}  Residual, 544 parameters" for i in range(4)),
        ]
    )
    assert repr(chain_of(Stages(), torch.zeros(2, 8))) == (
        "Chain(automatic, 7 blocks; removable runs: 0:3 (width 8), 3:7 (width 16))"
    )
    assert "0  0  Linear, 40 parameters, stays: 4 to 8 features" in chain_of(sequential()).describe()


def test_blocks_between_which_the_parent_works_are_no_neighbours():
    chain = BY_NAME["own-positions"].chain()
    assert (chain.blocks[1].outlet, chain.blocks[2].inlet) == (2, 3)
    assert chain.point_labels == ("in", "0", "1", "in 2", "2", "3", "4")


class Inner(nn.Module):
    """x + W₂ relu(W₁ x), of any hidden width."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Named(nn.Module):
    """Blocks as attributes, no two of the same shape, and pools between them."""

    def __init__(self):
        super().__init__()
        self.mixed3a, self.mixed3b = Inner(8, 4), Inner(8, 6)
        self.pool, self.mixed4a = nn.Dropout(), Inner(8, 10)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mixed4a(self.pool(self.mixed3b(self.mixed3a(x)))))


class ByKey(nn.Module):
    """Blocks in a dictionary of modules, asked for by name."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleDict({name: Residual(8) for name in ("up", "strange", "charm")})

    def forward(self, x: Tensor) -> Tensor:
        return self.steps["charm"](self.steps["strange"](self.steps["up"](x)))


class OneEach(nn.Module):
    """A block to a stage, each stage a module of its own with a block of another inner width."""

    def __init__(self):
        super().__init__()
        self.s1, self.s2, self.s3 = (nn.ModuleDict({"block": Inner(8, width)}) for width in (4, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        for stage in (self.s1, self.s2, self.s3):
            x = stage["block"](x) * 1.5
        return x


class PositionsFirst(nn.Module):
    """[batch, positions, features] → blocks that see [positions, batch, features], as XLNet's do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Residual(8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1).mean(1)


class PatchesBeside(nn.Module):
    """Blocks that see [batch · patches, pixels, features], as MobileViT's do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Residual(8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = x.reshape(n * 2, -1, 8)
        for layer in self.layers:
            x = layer(x)
        return x.reshape(n, -1, 8).mean(1)


@pytest.mark.parametrize(
    ("make", "paths", "k", "ends"),
    [
        (Named, ["mixed3a", "mixed3b", "mixed4a"], 1, r"body\.2"),
        (ByKey, ["steps.up", "steps.strange", "steps.charm"], 1, "fc2"),
        (OneEach, ["s1.block", "s2.block", "s3.block"], 2, r"body\.2"),
        (PositionsFirst, [f"layers.{k}" for k in range(4)], 2, "fc2"),
        (PatchesBeside, [f"layers.{k}" for k in range(4)], 2, "fc2"),
    ],
)
def test_blocks_are_found_wherever_they_stand_and_whatever_axis_holds_the_samples(make, paths, k, ends):
    torch.manual_seed(0)
    model, x = make().eval(), normal(6, 6, 8)()  # as many positions as samples
    chain = chain_of(model, x)
    assert [block.path for block in chain.blocks] == paths and all(block.removable for block in chain.blocks)
    zeros(ends)(chain.module(k))
    assert gap(answer(cut(chain, [str(k)]), x), answer(model, x)) == 0
    batches = task_of([x[:4], x[4:]]).batches("fit")  # the second batch is smaller
    [found] = score(chain, batches, ["block_influence"])
    ends_of = [chain.ends(Span(i, i + 1)) for i in range(len(paths))]
    influence = [found.values[inlet][outlet] for inlet, outlet in ends_of]
    assert min(influence) == influence[k] < 1e-6 and sorted(influence)[1] > 1e-3
    assert {block.positions for block in chain.blocks} == {6}


def test_rows_of_a_sample_are_its_own_whatever_axis_holds_the_samples():
    """The mean over positions of a network that puts them first is that of the same network with samples first."""
    torch.manual_seed(0)
    model, x = PositionsFirst().eval(), normal(5, 3, 8)()
    batch = task_of([x]).batches("fit")[0]
    seen = rows_of(chain_of(model, x), {Rows("mean"): {0}}, batch, 0)[Rows("mean")][0]
    assert torch.allclose(seen, x.mean(1))


def test_blocks_described_by_hand():
    class Attributes(nn.Module):
        """Blocks as attributes, in no list, run backwards."""

        def __init__(self):
            super().__init__()
            self.b0, self.b1, self.b2 = Residual(8), Residual(8), Residual(8)

        def forward(self, x):
            return self.b0(self.b1(self.b2(x)))

    model, x = Attributes(), normal(4, 8)()
    assert [block.path for block in chain_of(model, x).blocks] == ["b2", "b1", "b0"], "they hand on to each other"
    chain = chain_of(model, x, blocks=r"b\d")
    assert [block.path for block in chain.blocks] == ["b2", "b1", "b0"] and chain.family.name == "by hand"
    zeros("fc2")(model.b1)
    assert gap(answer(cut(chain, ["1"]), x), answer(model, x)) == 0
    assert gap(answer(cut(chain, ["0"]), x), answer(model, x)) > 1e-3
    assert chain_of(model, x, blocks=r"b\d", axis=1).axis == 1


class Past(nn.Module):
    """Layers whose parent calls .forward(), which no hook sees."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"fc1": nn.Linear(4, 4)}) for _ in range(2)])

    def forward(self, x):
        for layer in self.layers:
            x = layer["fc1"](x)
        return x


class Wider(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc = nn.Linear(width, width + 1)

    def forward(self, x):
        return self.fc(x)


class Widening(nn.Module):
    """Every block is one feature wider than the one before."""

    def __init__(self):
        super().__init__()
        self.w0, self.w1, self.w2 = Wider(4), Wider(5), Wider(6)

    def forward(self, x):
        return self.w2(self.w1(self.w0(x)))


class Plain(nn.Module):
    """Nothing repeats."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.fc2(self.fc1(x))


class Twice(nn.Module):
    """One block, used twice."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Residual(8)])

    def forward(self, x):
        return self.blocks[0](self.blocks[0](x))


class Answers(nn.Module):
    """A block that answers with a dict of numbers."""

    def forward(self, x):
        return {"x": x.tolist()}


class Records(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Answers()])

    def forward(self, x):
        return torch.tensor(self.blocks[0](x)["x"])


def dense() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(4, (1, 1), 8, num_classes=5)


@pytest.mark.parametrize(
    ("model", "example", "options", "message"),
    [
        (dense, normal(1, 3, 32, 32), {}, r"DenseNet has no list .*Its 2 _DenseBlock .--blocks .* each change the shape of what"),
        (Twice, normal(2, 8), {}, r"blocks\.0 runs 2 times, and a block that is used in several places cannot be cut"),
        (Twice, normal(2, 8), {"blocks": r"blocks\.\d"}, r"Block blocks\.0 ran 2 times in one forward pass"),
        (lambda: nn.Sequential(*[Residual(8)] * 2), normal(2, 8), {}, r"Block 0 ran 2 times"),
        (Records, normal(2, 8), {"blocks": r"blocks\.\d"}, r"Block blocks\.0 returns a dict where delayer needs a tensor"),
        (Stages, normal(2, 8), {"blocks": r"layers\.\d"}, r"No module of Stages has a path that matches .*like stages, "),
        (
            Stages,
            normal(2, 8),
            {"blocks": r"layers\.\d"},
            r"A pattern that would match: 'stages\\.\\d\+\\.blocks\\.\\d\+', its 7 Resid",
        ),
        (Past, normal(2, 4), {}, r"layers\.0 is never called as a module, though its fc1 is: its parent calls \.forward"),
        (Widening, normal(2, 4), {}, r"Its 3 Wider .--blocks 'w\\d\+'. each change the shape of what they get"),
        (
            Plain,
            normal(2, 4),
            {},
            r"No class of modules with parts of their own repeats either\. Describe the blocks by hand: --bl",
        ),
        (Stages, normal(2, 8), {"blocks": r"stages\.\d.*"}, r"Block stages\.0\.blocks lies inside block stages\.0, which"),
        (Stages, normal(2, 8), {"blocks": r".*"}, r"lies inside block the whole network"),
        (Stages, normal(2, 9), {}, r"Stages does not run on a tensor \[2, 9\]: .*mat1 and mat2.*Check the data's size"),
        (sequential, normal(2, 9), {}, r"Sequential does not run on a tensor \[2, 9\]"),
        (lambda: BY_NAME["timm-vit"].build(), normal(2, 3, 9, 9), {}, r"VisionTransformer does not run on a tensor \[2, 3"),
        (
            lambda: BY_NAME["bert"].build(),
            lambda: {"input_ids": torch.full((1, 3), 99)},
            {},
            r"Bert\w+ does not run on input_ids \[1, 3\]: index out of range",
        ),
        (Stages, lambda: None, {}, r"Stages is no family that delayer can make inputs for.*Pass one batch"),
    ],
)
def test_what_cannot_be_understood_is_said(model, example, options, message):
    with pytest.raises(ModelError, match=message):
        chain_of(model(), example(), **options)


def test_features_lie_where_the_weights_say():
    """Signals [batch, channels, time] have their features on axis 1, tokens [batch, time, channels] on the last."""
    assert BY_NAME["own-signals"].chain().axis == 1 and BY_NAME["own-keywords"].chain().axis == -1
    assert BY_NAME["torchvision-swin"].chain().axis == -1 and BY_NAME["timm-convnext"].chain().axis == 1


def test_no_family_file_is_long():
    """A family is a few facts; what grows belongs to the core."""
    from pathlib import Path

    folder = Path(__import__("delayer.families").families.__file__).parent
    for file in folder.glob("[!_]*.py"):
        if re.search(r"families\.register", file.read_text()):
            assert len(file.read_text().splitlines()) < 60, file.name
