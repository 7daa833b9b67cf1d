"""The module that stands where blocks stood."""

from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import ModelError
from delayer.network.blocks import AGAIN, UNSAID, Block
from delayer.network.calling import hidden_in
from delayer.network.handing import argument, together

PLAIN = (str, int, float, bool)


class StandIn(nn.Module):
    """Passes the hidden state on, through a map where there is one, in the clothes of the block that it replaces.

    It answers in the old block's form: items that were arguments handed on are handed on again, others are None. It takes and
    ignores every other argument, and carries what a parent may read from its layers: plain attributes, and those of its
    submodules (`Shell`). In a decoder with a cache it keeps the cache's length right by storing one empty feature a token
    under its own layer number, and an empty state where the layer keeps a state.
    """

    def __init__(self, module: nn.Module, block: Block, map: nn.Module | None = None):
        super().__init__()
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and isinstance(value, PLAIN):
                setattr(self, name, value)
        self.layer_idx: int | None = next(
            (found for m in module.modules() if (found := getattr(m, "layer_idx", None)) is not None), None
        )
        self.block = block
        self.map = map
        kept = vars(module).get("shells", {})  # of what stood here before a stand-in
        self.shells = kept | {name: Shell(child) for name, child in module.named_children() if not hasattr(self, name)}
        self.train(module.training)

    def __getattr__(self, name: str) -> Any:
        shells = self.__dict__.get("shells", {})
        return shells[name] if name in shells else super().__getattr__(name)

    def forward(self, *args, **kwargs) -> Any:
        """What the block answered, with the hidden state mapped, or passed where there is no map."""
        hidden = hidden_in(args, kwargs, self.block.takes)
        if self.layer_idx is not None:
            for cache in (*args, *kwargs.values()):
                if hasattr(cache, "get_seq_length") and hasattr(cache, "update"):
                    _count(getattr(cache, "self_attention_cache", cache), self.layer_idx, hidden)
        if self.map is not None:
            hidden = self.map(hidden)
        if not self.block.returns:
            return hidden
        passes = dict(zip(self.block.items, self.block.passes, strict=False))
        items = {
            item: hidden if passes.get(item) == AGAIN else self._handed(passes.get(item, ""), args, kwargs)
            for item in self.block.items
        }
        return together(self.block.form, items | {self.block.gives: hidden})

    def _handed(self, place: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """What is handed on of the arguments. Raises ModelError for one that was not there when the network was watched."""
        found = argument(place.removeprefix(UNSAID), args, kwargs) if place else None
        if place.startswith(UNSAID) and found is not None:
            raise ModelError(
                f"Block {self.block.path} was taken out of a network that was watched without argument {place[1:]} of its "
                "blocks, so what it hands on there is not known. Watch it on a batch that has it: chain_of(model, example)."
            )
        return found

    def extra_repr(self) -> str:
        """Says where nothing stands there, for `print(model)`."""
        return "pass-through" if self.map is None else ""


def _count(cache: Any, layer: int, hidden: Tensor) -> None:
    """Store nothing for each new token, in the shape of the layer's slot where that is fixed already."""
    slots: list[Any] = list(cache.layers[layer : layer + 1])
    slot = slots[0] if slots else None
    if slot is not None and hasattr(slot, "conv_states"):  # a layer that keeps states; it may have keys and values besides
        empty = hidden.new_zeros(hidden.shape[0], 1, 1)
        for number in slot.conv_states:
            slot.update_conv_state(empty, number)
    if slot is None or hasattr(slot, "get_seq_length"):  # and not one without any cache of its own
        heads, width = slot.keys.shape[1::2] if slot is not None and slot.is_initialized else (1, 1)
        empty = hidden.new_zeros(hidden.shape[0], heads, hidden.shape[1], width)
        cache.update(empty, empty, layer)


class Shell:
    """What is left of a submodule that went with its block: plain attributes, shapes of weights, and methods that do nothing.

    A parent may read its layers' parts, as torch's TransformerEncoder reads `layers[0].self_attn.batch_first`. Weights are
    zeros that take no memory.
    """

    def __init__(self, module: nn.Module):
        tensors = {**module._parameters, **module._buffers}
        kinds = [kind for kind in type(module).__mro__ if not issubclass(nn.Module, kind)]
        stated = [*(vars(kind) for kind in reversed(kinds)), vars(module)]
        self.facts = {
            name: value
            for each in stated
            for name, value in each.items()
            if isinstance(value, PLAIN) and not name.startswith("__")
        }
        self.facts |= {name: Shell(child) for name, child in module._modules.items() if child is not None}
        self.weights = {name: None if t is None else (tuple(t.shape), t.dtype, t.device) for name, t in tensors.items()}
        self.methods = {
            name
            for kind in kinds
            for name, value in vars(kind).items()
            if callable(value) and name != "forward" and not name.startswith("__")
        }

    def __getattr__(self, name: str) -> Any:
        mine = self.__dict__
        if name in mine.get("facts", {}):
            return mine["facts"][name]
        if name in mine.get("weights", {}):
            stated = mine["weights"][name]
            return stated and torch.zeros((), dtype=stated[1], device=stated[2]).expand(stated[0])
        if name in mine.get("methods", ()):
            return lambda *args, **kwargs: None
        raise AttributeError(f"{name} of a part that was removed")
