"""Spans, chains and the hooks on them: nothing stays behind, whatever happens."""

from dataclasses import replace

import pytest
import torch
from planted import BY_NAME, DECODERS, Stages, answer, cut, normal, sequential
from torch import nn

from delayer.cutting import plan_by_hand
from delayer.errors import DelayerError, ModelError, NotFiniteError, SpanError
from delayer.families import chain_from_facts, chain_of, families
from delayer.network.calling import call, evaluating
from delayer.network.chain import Span
from delayer.observing.one_pass import observe, watching
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.tasks.splits import Batch


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Breaks(nn.Module):
    """A block that stops working."""

    def forward(self, x):
        raise KeyError("broken")


# -- spans -----------------------------------------------------------------------------------------------------------


def test_a_span_is_half_open_like_a_slice():
    assert Span.parse("9:11") == Span(9, 11) and Span.parse("9") == Span(9, 10)
    assert str(Span(9, 11)) == "9:11" and len(Span(9, 11)) == 2
    assert Span(9, 11).overlaps(Span(10, 12)) and not Span(9, 11).overlaps(Span(11, 12))
    assert sorted([Span(3, 5), Span(1, 9)]) == [Span(1, 9), Span(3, 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3:3", "Span 3:3 is empty or negative. A span is START:STOP with STOP excluded"),
        ("5:3", "Span 5:3 is empty"),
        ("a:b", "'a:b' is not a span. Write START:STOP with STOP excluded: 9:11 means blocks 9 and 10"),
        ("1:2:3", "'1:2:3' is not a span"),
        ("-1:2", "'-1:2' is not a span"),
    ],
)
def test_what_is_no_span_is_said(text, message):
    with pytest.raises(SpanError, match=message):
        Span.parse(text)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ("2:5", r"Span 2:5 runs from stages.0.blocks.2 \(width 8\) to stages.1.blocks.1 \(width 16\) .* Use 2:3 and 3:5\."),
        ("6:8", "Span 6:8 ends behind the last block: this network has 7 blocks, 0 to 6. Use a span up to 7"),
    ],
)
def test_a_span_that_does_not_fit_is_refused_with_those_that_would(span, message):
    chain = chain_of(Stages(), normal(2, 8)())
    with pytest.raises(SpanError, match=message):
        chain.check(Span.parse(span))
    with pytest.raises(SpanError, match="No block in it keeps its width; choose another span"):
        chain_of(sequential()).check(Span(0, 1))


def test_spans_and_points():
    chain = chain_of(Stages(), normal(2, 8)())
    assert len(list(chain.spans())) == 3 * 4 // 2 + 4 * 5 // 2
    for span in chain.spans():
        segment = chain.check(span)
        assert set(chain.ends(span)) <= set(segment.points)
    assert chain.num_points == 9 and chain.point_labels == ("in", "0", "1", "2", "in 3", "3", "4", "5", "6")
    assert [chain.weight(i) for i in range(7)] == [1] * 7
    assert chain_of(sequential()).weight(6) == 0, "an activation is no block of a budget"


# -- changing a chain --------------------------------------------------------------------------------------------------


def test_what_is_replaced_comes_back_also_after_an_exception():
    chain = chain_of(Stages(), normal(2, 8)())
    before = list(chain.model.named_modules())
    with pytest.raises(KeyError), chain.restored():
        old = chain.replace_(1, Breaks())
        assert old is before[[name for name, _ in before].index("stages.0.blocks.1")][1]
        call(chain.model, normal(2, 8)())
    assert list(chain.model.named_modules()) == before


def test_facts_describe_another_copy():
    chain = BY_NAME["sequential"].chain()
    other = chain_from_facts(BY_NAME["sequential"].build(), chain.facts())
    assert other.facts() == chain.facts() and other.axis == -1


def test_blocks_outside_lists_and_lists_with_names_are_cut():
    """Named children keep their names; an attribute keeps a pass-through in its place."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.rest = nn.Sequential()
            for name in "abc":
                self.rest.add_module(name, nn.Linear(4, 4))

        def forward(self, x):
            return self.rest(self.first(x))

    chain = chain_of(Net(), normal(2, 4)(), blocks=r"first|rest\.\w")
    small = cut(chain, ["0", "2"])
    with evaluating(chain.model):
        expected = chain.model.rest.c(chain.model.rest.a(normal(2, 4)()))
    assert torch.equal(answer(small, normal(2, 4)()), expected)
    named = nn.Sequential()
    for name in "abc":
        named.add_module(name, nn.Linear(4, 4))
    assert list(cut(chain_of(named), ["1"])._modules) == ["a", "c"]


# -- hooks and modes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-vit", "hf-swin", *(case.name for case in DECODERS), "own-tuples"])
def test_nothing_stays_on_a_network_and_its_modes_come_back(name):
    case = BY_NAME[name]
    model, inputs = case.build().train(), case.inputs()
    next(m for m in model.modules() if not list(m.children())).eval()  # a frozen part stays frozen
    modes = [module.training for module in model.modules()]
    chain = chain_of(model, inputs)
    batches = [Batch(inputs, None, 0)]
    last = chain.segments[-1].points
    for points in ([(0, 1)], [(last[0], last[-1])]):
        observe(chain, batches, [Moments(points, Rows())])
    assert hooks(model) == 0 and [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("where", [0, 1, 4])
def test_nothing_stays_after_an_exception(where):
    chain = chain_of(Stages().train(), normal(2, 8)())
    model, stat = chain.model, Moments([(0, 3)], Rows())
    chain.replace_(where, Breaks())
    with pytest.raises(ModelError, match="does not run on a tensor .*: 'broken'"):
        chain_of(model, normal(2, 8)())
    with pytest.raises(ModelError):
        chain_of(model, normal(2, 8)(), blocks=r"stages\.\d\.blocks\.\d")
    if where < 3:  # the pass ends behind the last point that is watched
        with pytest.raises((KeyError, DelayerError)):
            observe(chain, [Batch(normal(2, 8)(), None, 0)], [stat])
    else:
        observe(chain, [Batch(normal(2, 8)(), None, 0)], [stat])
    with pytest.raises(NotFiniteError):
        observe(chain, [Batch(torch.full((2, 8), float("nan")), None, 0)], [Moments([(0, 0)], Rows())])
    assert hooks(model) == 0 and all(module.training for module in model.modules())


def test_a_pass_ends_when_all_was_seen():
    chain, seen = chain_of(Stages(), normal(2, 8)()), []
    chain.replace_(2, Breaks())
    with evaluating(chain.model), watching(chain, {0, 2}, lambda point, hidden: seen.append(point)):
        chain.model(normal(2, 8)())
    assert seen == [0, 2] and hooks(chain.model) == 0
    with pytest.raises(KeyError), watching(chain, {0}, lambda point, hidden: None, stop_early=False):
        chain.model(normal(2, 8)())
    assert hooks(chain.model) == 0


def test_watching_a_network_does_not_change_it():
    case = BY_NAME["torchvision-vgg"]  # its activations work in place
    chain, inputs = case.chain(), case.inputs()
    before, seen = answer(chain.model, inputs), {}
    with (
        evaluating(chain.model),
        watching(chain, range(chain.num_points), lambda p, h: seen.update({p: h.clone()}), stop_early=False),
    ):
        after = chain.model(inputs)
    assert torch.equal(before, after) and set(seen) == set(range(chain.num_points))
    assert (seen[2] >= 0).all() and (seen[1] < 0).any(), "point 1 is a convolution's output, before its activation"


def test_an_unknown_family_names_near_ones():
    with pytest.raises(DelayerError, match="There is no family 'timm ResNets'. Did you mean timm ResNet"):
        families["timm ResNets"]


def test_a_plan_by_hand_checks_its_spans():
    with pytest.raises(SpanError, match="Use 2:3 and 3:5"):
        plan_by_hand(chain_of(Stages(), normal(2, 8)()), ["2:5"], operator="drop")


# -- numbers that are void -------------------------------------------------------------------------------------------


def test_a_chain_whose_blocks_left_says_that_its_numbers_are_void():
    chain = chain_of(sequential(), example=torch.zeros(2, 4))
    whole = chain.copy()
    chain.compact_({1})
    for use in (chain.module, chain.weight, lambda i: chain.replace_(i, nn.Identity()), lambda i: chain.check(Span(i, i + 1))):
        with pytest.raises(ModelError, match="taken out of this Sequential.*void.*what is left with chain_of.model."):
            use(0)
    with pytest.raises(ModelError, match="cut a copy with apply.chain, plan."):
        chain.describe()
    for use in (chain.copy, lambda: chain.compact_({0})):
        with pytest.raises(ModelError, match="block numbers of its chain are void"):
            use()
    assert "some have been taken out" in repr(chain)
    assert chain.facts() == whole.facts()  # what is known of the original stays true
    assert whole.num_blocks == len(list(whole.spans()) and whole.blocks) and whole.model is not chain.model


def test_a_chain_keeps_its_numbers_where_no_block_leaves():
    chain = chain_of(sequential(), example=torch.zeros(2, 4))
    chain.compact_(set())
    assert chain.num_blocks == len(chain.blocks) > 0


def test_a_family_that_leaves_the_axis_open_has_none():
    chain = chain_of(sequential(), example=torch.zeros(2, 4))
    chain.family = replace(chain.family, axis=None)
    with pytest.raises(ModelError, match="leaves the axis of features open; chain_of.model. tells it"):
        _ = chain.axis
