"""How a network's own library builds it with fewer blocks: found by building skeletons, never on the word of a name.

The recipe by hand (delete the layers, lower the count, cut every per-layer list) works for most networks and is silently
wrong for some. Here each guess is built, without memory where that can be, and compared with what is left of the network.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import nn

from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain
from delayer.store.artefact import Source
from delayer.store.shorter.likeness import looks_of
from delayer.store.shorter.lists import BlockList, NotOrdinary, lists_of
from delayer.store.shorter.torchvision import Constructions, is_torchvision

__all__ = ["NotOrdinary", "Shortening", "Shorter"]


@dataclass(frozen=True)
class Shorter:
    """How a library builds a network without some of its blocks.

    config: a Hugging Face configuration, or the arguments of timm or of torchvision's class. lists: which blocks each list keeps.
    """

    config: dict[str, Any]
    lists: tuple[BlockList, ...]

    def renamed(self, model: nn.Module) -> dict[str, str]:
        """For each tensor of the cut network, in which pass-throughs may stand still, its name in the short one."""
        moved = {}
        for one in self.lists:
            parent = model.get_submodule(one.path)
            there = dict(parent.named_children())
            # Pass-throughs keep their place, and so do names that are no numbers (encoder_layer_4).
            if any(isinstance(there.get(name), StandIn) for name in one.gone) or not all(map(str.isdigit, one.names)):
                moved |= {f"{one.at(old)}.": f"{one.at(new)}." for old, new in one.moves.items()}
        keys = {}
        for key in model.state_dict():
            old = next((prefix for prefix in moved if key.startswith(prefix)), "")
            keys[key] = moved[old] + key.removeprefix(old) if old else key
        return keys


class Shortening:
    """How a network's own library builds it without some of its blocks; what was found out once is kept.

    chain: of the original network. source: where it comes from.
    """

    def __init__(self, chain: Chain, source: Source):
        self.chain, self.source = chain, source
        self._known: dict[tuple, str] = {}

    @cached_property
    def _arguments(self) -> Callable[[Sequence[BlockList]], dict[str, Any]]:
        from delayer.store.shorter.huggingface import Configurations
        from delayer.store.shorter.timm import arguments

        if self.source.kind == "delayer":
            raise NotOrdinary(
                "the network comes out of a folder that delayer saved, and that its library builds by no configuration"
            )
        if self.source.kind == "huggingface":
            return Configurations(self.chain, self.source).without
        if self.source.kind == "timm":
            return partial(arguments, self.chain, self.source)
        if is_torchvision(self.chain.model):
            return Constructions(self.chain, self.source).without
        raise NotOrdinary("it comes from a function, and no file says which arguments of it make fewer blocks")

    def without(self, gone: Collection[int]) -> Shorter:
        """How it is built without the blocks in `gone`. Raises NotOrdinary, with the reason."""
        lists = lists_of(self.chain, gone)
        return Shorter(self._arguments(lists), lists)

    def why_not(self, gone: Collection[int]) -> str:
        """Why no library builds it without these blocks; "" where one does. Blocks that look alike are looked at once."""
        looks = tuple(self._looks[i] for i in range(self.chain.num_blocks) if i not in gone)
        if looks not in self._known:
            try:
                self.without(gone)
                self._known[looks] = ""
            except NotOrdinary as reason:
                self._known[looks] = str(reason)
        return self._known[looks]

    @cached_property
    def _looks(self) -> list[tuple]:
        """What tells the blocks of a list apart: classes, shapes, and what they are told."""
        chain = self.chain
        return [(block.path.rpartition(".")[0], looks_of(chain.module(i))) for i, block in enumerate(chain.blocks)]
