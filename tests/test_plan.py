"""Plans: what they refuse, that they survive a file, and that cutting does what they say."""

import json

import pytest
import torch
from torch import nn

from delayer import Plan, Rows, Span, apply, chain_of, observe, plan_by_hand, read_plan
from delayer.edits import edits
from delayer.errors import PlanError, SpanError
from delayer.observing.stats import Moments
from delayer.tasks.splits import Batch


class Residual(nn.Module):
    """x + f(x), or an exact affine map where one is planted."""

    def __init__(self, width: int, planted: bool = False):
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.planted = planted

    def forward(self, x):
        return x + (self.outer(self.inner(x)) if self.planted else self.outer(torch.tanh(self.inner(x))))


def network(num_blocks: int = 6, width: int = 8, planted: tuple[int, ...] = (), seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    blocks = [Residual(width, i in planted) for i in range(num_blocks)]
    return nn.Sequential(nn.Linear(4, width), *blocks, nn.Linear(width, 3)).eval()


def batches(num: int = 4, size: int = 64, seed: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [Batch(torch.randn(size, 4, generator=generator), None, i * size) for i in range(num)]


def test_replacing_planted_affine_blocks_changes_nothing():
    """Blocks 2 and 3 are affine, so one affine map for both is exact."""
    model = network(planted=(2, 3))
    chain = chain_of(model)
    data = batches()
    plan = plan_by_hand(chain, [Span(3, 5)], operator="affine")
    small = apply(chain, plan, data=data)
    x = torch.randn(50, 4)
    assert len(small) == len(model) - 1
    torch.testing.assert_close(small(x), model(x), rtol=1e-4, atol=1e-4)
    assert (apply(chain, plan_by_hand(chain, [Span(3, 5)], operator="drop"))(x) - model(x)).abs().max() > 0.05


def test_apply_leaves_the_original_alone():
    model = network()
    chain, before = chain_of(model), [p.clone() for p in model.parameters()]
    apply(chain, plan_by_hand(chain, ["2:4"], operator="drop"))
    assert len(model) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_plan_survives_its_file(tmp_path):
    chain = chain_of(network())
    plan = plan_by_hand(chain, ["1:2", "3:5"], operator="low_rank", rank=2, ridge=0.01)
    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan


def test_an_edited_plan_is_replayed(tmp_path):
    chain = chain_of(network())
    plan_by_hand(chain, ["1:2"], operator="drop").save(tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    data["edits"].append({"edit": "drop_span", "start": 4, "stop": 6})
    (tmp_path / "plan.json").write_text(json.dumps(data))
    assert len(apply(chain, read_plan(tmp_path / "plan.json"))) == 5


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "is not a valid Plan"),
        ('{"format": 1, "model": "m", "model_hash": "", "num_blocks": 8, "edits": [{"edit": "drop_spam"}]}', "drop_span"),
        ('{"format": 1, "model": "m", "model_hash": "", "num_blocks": 8, "edits": [{"edit": "drop_span", "start": 1}]}', "stop"),
        (
            '{"format": 1, "model": "m", "model_hash": "", "num_blocks": 8, "edits": ['
            '{"edit": "drop_span", "start": 1, "stop": 4}, {"edit": "drop_span", "start": 3, "stop": 5}]}',
            "1:4 and 3:5 overlap",
        ),
    ],
)
def test_a_broken_plan_is_refused_with_its_reason(tmp_path, text, said):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=said):
        read_plan(tmp_path / "plan.json")


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(PlanError, match="There is no plan"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_for_other_weights_is_refused():
    plan = plan_by_hand(chain_of(network(seed=0)), ["1:2"], operator="drop")
    other = chain_of(network(seed=1))
    with pytest.raises(PlanError, match="this network has weights"):
        apply(other, plan, data=batches())
    free = plan.model_copy(update={"model_hash": ""})
    assert len(apply(other, free, data=batches())) == 7


def test_a_plan_for_another_depth_is_refused():
    plan = plan_by_hand(chain_of(network(6)), ["1:2"], operator="drop")
    with pytest.raises(PlanError, match="this one has 9"):
        apply(chain_of(network(7)), plan)


def test_a_span_across_widths_names_spans_that_would_do():
    torch.manual_seed(0)
    model = nn.Sequential(Residual(4), Residual(4), nn.Linear(4, 6), Residual(6), Residual(6))
    chain = chain_of(model, torch.randn(2, 4))
    with pytest.raises(SpanError, match="Use 1:2 and 3:4"):
        plan_by_hand(chain, ["1:4"], operator="drop")
    with pytest.raises(SpanError, match="5 blocks"):
        plan_by_hand(chain, ["3:9"])
    with pytest.raises(SpanError, match="is not a span"):
        plan_by_hand(chain, ["x:9"])


def test_sequential_refit_aims_at_the_original_from_the_cut_stream():
    """The literal twin: fit the second map on the stream behind the first."""
    model = network(num_blocks=6)
    chain, data = chain_of(model), batches()
    plan = plan_by_hand(chain, ["2:3", "5:6"], operator="affine", refit="sequential")
    small = apply(chain, plan, data=data)
    x = torch.cat([batch.inputs for batch in data]).double()
    model, small = model.double(), small.double()
    with torch.no_grad():
        stream = small[:5](x)  # behind the first map, up to the second
        target = model[:6](x)
        ones = torch.cat([stream, torch.ones(len(x), 1)], 1)
        best = torch.linalg.lstsq(ones, target).solution
    found = torch.cat([small[5].map.weight.T, small[5].map.bias[None]])
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)
    independent = apply(chain_of(network(num_blocks=6)), plan.model_copy(update={"refit": "independent"}), data=data)
    assert (independent[5].map.weight - found[:-1].T).abs().max() > 1e-4


def test_rba_as_published_is_least_squares_without_bias():
    model = network()
    chain, data = chain_of(model), batches()
    small = apply(chain, plan_by_hand(chain, ["2:5"], operator="linear"), data=data)
    with torch.no_grad():
        x = model[:2](torch.cat([b.inputs for b in data])).double()
        y = model[:5](torch.cat([b.inputs for b in data])).double()
    expected = torch.linalg.lstsq(x, y).solution.T
    torch.testing.assert_close(small[2].map.weight.double(), expected, rtol=1e-4, atol=1e-5)
    assert small[2].map.bias is None


def test_vit_large_saves_the_published_share():
    """ViT-L 17→23 linear saves 24.57 % of the backbone (RBA's arithmetic): blocks 18..23 become one d×d map."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("vit_large_patch16_224", num_classes=0)
    total = sum(p.numel() for p in model.parameters())
    blocks = sum(p.numel() for block in model.blocks[18:24] for p in block.parameters())
    from delayer.fitting.operators.linear import Linear

    assert round(100 * (blocks - Linear().num_params(1024)) / total, 2) == 24.57


def test_stats_given_equal_stats_gathered():
    chain, data = chain_of(network()), batches()
    plan = plan_by_hand(chain, ["2:4"], operator="affine")
    [stats] = observe(chain, data, [Moments(plan.needs(chain), Rows("each"), exact=True)])
    x = torch.randn(5, 4)
    torch.testing.assert_close(apply(chain, plan, stats)(x), apply(chain, plan, data=data)(x))


def test_every_edit_has_a_label_and_spans():
    own = {
        "resolve_block": ({"block": 1}, "block 1", (Span(1, 2),)),
        "adopt_units": ({"block": 1, "target": 2, "donors": (2,)}, "with units of 2", (Span(1, 2),)),
        "renew_norms": ({}, "norms", ()),
        "fold_map": ({"block": 1, "target": 3}, "block 1", (Span(1, 2),)),
        "rescale": ({"before": 3, "factor": 1.5, "begins": ("a",), "adds": ("b",)}, "before block 3", ()),
        "linearise": ({"site": "act", "num_features": 3}, "act", ()),
        "fuse": ({"path": "act", "layers": ("a", "b")}, "act", ()),
        "move_padding": ({"first": "act", "second": "b"}, "act", ()),
    }
    for name in edits:
        fields, words, spans = own.get(name, ({"start": 1, "stop": 3}, "1:3", (Span(1, 3),)))
        made = edits[name].model_validate(fields)
        assert words in made.label and made.spans == spans and made.edit == name


def test_plans_refuse_overlap_and_unknown_fields():
    with pytest.raises(ValueError, match="overlap"):
        Plan(
            model="m",
            model_hash="",
            num_blocks=4,
            edits=({"edit": "drop_span", "start": 0, "stop": 2}, {"edit": "drop_span", "start": 1, "stop": 3}),
        )
    with pytest.raises(ValueError, match="spam"):
        Plan(model="m", model_hash="", num_blocks=4, edits=(), spam=1)


def test_maps_are_never_made_up():
    """Without rows to fit on, a plan with maps is refused instead of leaving identities."""
    chain = chain_of(network())
    with pytest.raises(PlanError, match="nothing to fit on"):
        apply(chain, plan_by_hand(chain, ["2:4"], operator="affine"))
