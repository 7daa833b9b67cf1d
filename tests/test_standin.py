"""What stands where blocks stood: whatever a parent expects of a block, it gives."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from delayer.errors import DataError
from delayer.modules.feature_maps import DiagonalMap
from delayer.modules.stand_in import StandIn
from delayer.network.blocks import AGAIN
from delayer.network.chain import Block as Facts


def facts(returns: int = 0, **more) -> Facts:
    return Facts(
        path="", kind="", inlet=0, outlet=1, in_width=4, out_width=4, positions=1, removable=True, returns=returns, **more
    )


class Attention(nn.Module):
    layer_idx = 3


class Block(nn.Module):
    """With plain facts that parents read from their layers."""

    def __init__(self):
        super().__init__()
        self.attention_type, self.window, self.dropout, self.gradient_checkpointing = "sliding", 4, 0.1, False
        self._private, self.sizes = "mine", [1, 2]
        self.linear = nn.Linear(2, 2)


class Cache:
    """Counts tokens a layer, as the caches of transformers do."""

    def __init__(self, **layers):
        self.layers, self.stored = [], {}

    def get_seq_length(self, layer: int = 0) -> int:
        return self.stored[layer].shape[2] if layer in self.stored else 0

    def update(self, keys, values, layer):
        assert keys.shape == values.shape
        self.stored[layer] = torch.cat([*([self.stored[layer]] if layer in self.stored else []), keys], 2)


@pytest.mark.parametrize("returns", [0, 1, 3])
def test_it_returns_what_the_block_returned(returns):
    x = torch.randn(2, 5, 4)
    out = StandIn(Block(), facts(returns))(x)
    if returns:
        assert isinstance(out, tuple) and len(out) == returns and out[0] is x and set(out[1:]) <= {None}
    else:
        assert out is x


def test_it_takes_and_ignores_every_other_argument():
    x, mask = torch.randn(2, 5, 4), torch.zeros(2, 5)
    stand_in = StandIn(Block(), facts())
    assert stand_in(x, mask, None, use_cache=True, position_ids=mask) is x
    assert stand_in(attention_mask=mask, hidden_states=x) is x
    assert stand_in(x=x, mask=None) is x
    with pytest.raises(DataError, match="without a tensor as its first argument"):
        stand_in(mask=None)


def test_it_carries_the_plain_facts_of_the_block_and_none_of_its_weights():
    block = Block().eval()
    stand_in = StandIn(block, facts())
    assert (stand_in.attention_type, stand_in.window, stand_in.dropout) == ("sliding", 4, 0.1)
    assert stand_in.gradient_checkpointing is False and stand_in.layer_idx is None
    assert not hasattr(stand_in, "_private") and not hasattr(stand_in, "sizes")
    assert not stand_in.training and StandIn(block.train(), facts()).training
    assert not list(stand_in.parameters()) and "pass-through" in repr(stand_in)


def test_it_answers_what_a_parent_reads_of_its_parts():
    """Plain attributes, also of a part's class, shapes and types of weights, methods that do nothing; never a computation."""
    block = nn.Sequential(Block().half(), Attention())
    stand_in = deepcopy(StandIn(StandIn(block, facts()), facts()))
    first, second = getattr(stand_in, "0"), getattr(stand_in, "1")
    assert (first.window, first._private, first.linear.in_features, second.layer_idx) == (4, "mine", 2, 3)
    assert first.linear.weight.shape == (2, 2) and first.linear.weight.dtype == torch.float16 and not first.linear.weight.any()
    assert first.linear.reset_parameters() is None
    for part, name in ((stand_in, "2"), (first, "sizes"), (first.linear, "scale")):
        assert not hasattr(part, name)
    with pytest.raises(TypeError, match="not callable"):
        first(torch.zeros(2, 2))
    assert not list(stand_in.parameters()) and [name for name, _ in stand_in.named_modules()] == [""]


def test_it_hands_on_what_the_block_handed_on():
    x, mask, coordinates = torch.randn(2, 5, 4), torch.zeros(2, 5), torch.randn(2, 5, 3)
    block = facts(4, takes="1", hidden=1, passes=("mask", "", AGAIN, ""))
    assert StandIn(Block(), block)(coordinates, x, mask=mask) == (mask, x, x, None)
    assert StandIn(Block(), block)(coordinates, x) == (None, x, x, None)
    named = {"names": ("x", "mask", "more"), "passes": ("", "0.mask", "0.more"), "takes": "0.x"}
    given = {"x": x, "mask": mask}
    assert StandIn(Block(), facts(3, form="dict", **named))(given) == given | {"more": None}
    record = StandIn(Block(), facts(3, form="record", **named))(given)
    assert record.x is record["x"] is record[0] is x and record.to_tuple() == (x, mask) and not hasattr(record, "y")
    as_tuple = StandIn(Block(), facts(3, form="named tuple", **named))(given)
    assert as_tuple.mask is as_tuple[1] is mask and len(as_tuple) == 3
    assert StandIn(Block(), facts(2, form="list", passes=("", "1")))(x, mask) == [x, mask]


def test_its_map_is_applied_and_trained():
    stand_in = StandIn(Block(), facts(1), DiagonalMap(4))
    stand_in.map.weight.data.fill_(2)
    x = torch.randn(2, 5, 4)
    assert torch.equal(stand_in(x)[0], 2 * x) and "pass-through" not in repr(stand_in)
    assert len(list(stand_in.parameters())) == 2


def test_a_cache_counts_each_token_once():
    stand_in, cache = StandIn(nn.Sequential(Attention()), facts()), Cache()
    assert stand_in.layer_idx == 3
    for num_tokens in (5, 1, 1):
        stand_in(torch.randn(2, num_tokens, 4), past_key_values=cache)
    assert cache.get_seq_length(3) == 7 and set(cache.stored) == {3}
    assert cache.stored[3].shape == (2, 1, 7, 1) and not cache.stored[3].any()
    stand_in(torch.randn(2, 2, 4), cache)
    assert cache.get_seq_length(3) == 9


@pytest.mark.parametrize("kind", ["conv", "hybrid", "dummy", "full_attention"])
def test_a_layer_that_keeps_states_has_them(kind):
    """As recurrent layers and hybrids do in caches of transformers; what reads of the last one whether tokens passed is told."""
    caches = pytest.importorskip("transformers.cache_utils")
    layers = [caches.DYNAMIC_LAYER_TYPE_MAPPING[name]() for name in ("full_attention", "full_attention", "conv", kind)]
    cache = caches.Cache(layers=layers)
    for num_tokens in (5, 1):
        StandIn(nn.Sequential(Attention()), facts())(torch.randn(2, num_tokens, 4), past_key_values=cache)
    if kind in ("hybrid", "full_attention"):
        assert cache.get_seq_length(3) == 6
    if kind in ("conv", "hybrid"):
        assert cache.has_previous_state() and not cache.get_conv_state(3).any()
    cache.reorder_cache(torch.tensor([1, 0]))


def test_a_slot_of_fixed_shape_is_filled_in_that_shape():
    """Static caches may be laid out ahead with each layer's heads and width; export needs that."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(num_hidden_layers=4, hidden_size=16, num_attention_heads=2, num_key_value_heads=2)
    cache = transformers.StaticCache(config=config, max_cache_len=8)
    cache.early_initialization(2, 2, 8, torch.float32, torch.device("cpu"))
    StandIn(nn.Sequential(Attention()), facts())(torch.randn(2, 5, 16), past_key_values=cache)
    assert cache.get_seq_length(3) == 5 and cache.layers[3].keys.shape == (2, 2, 8, 8)
