"""The module that stands where blocks stood."""

from typing import Any

from torch import Tensor, nn

from delayer.calling import hidden_in


class StandIn(nn.Module):
    """Passes the hidden state on, through a map where there is one, in the clothes of the block that it replaces.

    It takes and ignores every other argument, returns what the old block returned (a tensor, or a tuple of `returns`
    items, the others None), carries the plain attributes that a parent may read from its layers, and in a decoder with
    a cache it keeps the cache's length right by storing one empty feature a token under its own layer number.
    """

    def __init__(self, block: nn.Module, returns: int, map: nn.Module | None = None):
        super().__init__()
        for name, value in vars(block).items():
            if not name.startswith("_") and name != "training" and isinstance(value, (str, int, float, bool)):
                setattr(self, name, value)
        self.layer_idx = next((m.layer_idx for m in block.modules() if hasattr(m, "layer_idx")), None)
        self.returns = returns
        self.map = map
        self.train(block.training)

    def forward(self, *args, **kwargs) -> Tensor | tuple[Tensor | None, ...]:
        hidden = hidden_in(args, kwargs)
        if self.layer_idx is not None:
            for cache in (*args[1:], *kwargs.values()):
                if hasattr(cache, "get_seq_length") and hasattr(cache, "update"):
                    self._count(getattr(cache, "self_attention_cache", cache), hidden)
        if self.map is not None:
            hidden = self.map(hidden)
        return (hidden, *[None] * (self.returns - 1)) if self.returns else hidden

    def _count(self, cache: Any, hidden: Tensor) -> None:
        """Store nothing for each new token, in the shape of the layer's slot where that is fixed already."""
        slot = cache.layers[self.layer_idx] if self.layer_idx < len(cache.layers) else None
        heads, width = slot.keys.shape[1::2] if slot is not None and slot.is_initialized else (1, 1)
        empty = hidden.new_zeros(hidden.shape[0], heads, hidden.shape[1], width)
        cache.update(empty, empty, self.layer_idx)

    def extra_repr(self) -> str:
        return "pass-through" if self.map is None else ""
