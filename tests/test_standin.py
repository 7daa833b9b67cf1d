"""What stands where blocks stood: whatever a parent expects of a block, it gives."""

import pytest
import torch
from torch import nn

from delayer.affine import AffineMap
from delayer.errors import DataError
from delayer.standin import StandIn


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
    out = StandIn(Block(), returns)(x)
    if returns:
        assert isinstance(out, tuple) and len(out) == returns and out[0] is x and set(out[1:]) <= {None}
    else:
        assert out is x


def test_it_takes_and_ignores_every_other_argument():
    x, mask = torch.randn(2, 5, 4), torch.zeros(2, 5)
    stand_in = StandIn(Block(), 0)
    assert stand_in(x, mask, None, use_cache=True, position_ids=mask) is x
    assert stand_in(attention_mask=mask, hidden_states=x) is x
    assert stand_in(x=x, mask=None) is x
    with pytest.raises(DataError, match="without a tensor as its first argument"):
        stand_in(mask=None)


def test_it_carries_the_plain_facts_of_the_block_and_none_of_its_weights():
    block = Block().eval()
    stand_in = StandIn(block, 0)
    assert (stand_in.attention_type, stand_in.window, stand_in.dropout) == ("sliding", 4, 0.1)
    assert stand_in.gradient_checkpointing is False and stand_in.layer_idx is None
    assert not hasattr(stand_in, "_private") and not hasattr(stand_in, "sizes") and not hasattr(stand_in, "linear")
    assert not stand_in.training and StandIn(block.train(), 0).training
    assert not list(stand_in.parameters()) and "pass-through" in repr(stand_in)


def test_its_map_is_applied_and_trained():
    stand_in = StandIn(Block(), 1, AffineMap("diagonal", 4))
    stand_in.map.weight.data.fill_(2)
    x = torch.randn(2, 5, 4)
    assert torch.equal(stand_in(x)[0], 2 * x) and "pass-through" not in repr(stand_in)
    assert len(list(stand_in.parameters())) == 2


def test_a_cache_counts_each_token_once():
    stand_in, cache = StandIn(nn.Sequential(Attention()), 0), Cache()
    assert stand_in.layer_idx == 3
    for num_tokens in (5, 1, 1):
        stand_in(torch.randn(2, num_tokens, 4), past_key_values=cache)
    assert cache.get_seq_length(3) == 7 and set(cache.stored) == {3}
    assert cache.stored[3].shape == (2, 1, 7, 1) and not cache.stored[3].any()
    stand_in(torch.randn(2, 2, 4), cache)
    assert cache.get_seq_length(3) == 9


def test_a_slot_of_fixed_shape_is_filled_in_that_shape():
    """Static caches may be laid out ahead with each layer's heads and width; export needs that."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(num_hidden_layers=4, hidden_size=16, num_attention_heads=2, num_key_value_heads=2)
    cache = transformers.StaticCache(config=config, max_cache_len=8)
    cache.early_initialization(2, 2, 8, torch.float32, torch.device("cpu"))
    StandIn(nn.Sequential(Attention()), 0)(torch.randn(2, 5, 16), past_key_values=cache)
    assert cache.get_seq_length(3) == 5 and cache.layers[3].keys.shape == (2, 2, 8, 8)
