"""How a network's own library builds it with fewer blocks: found by building skeletons, never on the word of a name.

The recipe by hand (delete the layers, lower the count, cut every per-layer list) works for most networks and is silently
wrong for some. Here each guess is built, without memory where that can be, and compared with what is left of the network.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain
from delayer.store.artefact import Source
from delayer.store.shorter.lists import BlockList, NotOrdinary, lists_of

__all__ = ["NotOrdinary", "Shorter", "shorter"]


@dataclass(frozen=True)
class Shorter:
    """How a library builds a network without some of its blocks.

    config: a Hugging Face configuration, or arguments of timm's constructor. lists: which blocks each list keeps.
    """

    config: dict[str, Any]
    lists: tuple[BlockList, ...]

    def renamed(self, model: nn.Module) -> dict[str, str]:
        """For each tensor of the cut network, in which pass-throughs may stand still, its name in the short one."""
        moved = {}
        for one in self.lists:
            parent = model.get_submodule(one.path)
            there = dict(parent.named_children())
            if any(isinstance(there.get(name), StandIn) for name in one.gone):
                moved |= {f"{one.at(old)}.": f"{one.at(new)}." for old, new in one.moves.items()}
        keys = {}
        for key in model.state_dict():
            old = next((prefix for prefix in moved if key.startswith(prefix)), "")
            keys[key] = moved[old] + key.removeprefix(old) if old else key
        return keys


def shorter(chain: Chain, gone: Collection[int], source: Source) -> Shorter:
    """How the network's own library builds it without the blocks in `gone`. Raises NotOrdinary, with the reason.

    chain: of the original network.
    """
    from delayer.store.shorter import huggingface, timm

    if source.kind == "delayer":
        raise NotOrdinary("the network was no ordinary checkpoint before this cut either")
    lists = lists_of(chain, gone)
    if source.kind == "huggingface":
        return Shorter(huggingface.configuration(chain, lists, source), lists)
    if source.kind == "timm":
        return Shorter(timm.arguments(chain, lists, source), lists)
    raise NotOrdinary("it comes from a function, and no file says which arguments of it make fewer blocks")
