"""Where a network's blocks stand, list by list, which of them stay, and the names that those have afterwards."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from delayer.network.chain import Chain


class NotOrdinary(Exception):
    """Why a network has no ordinary checkpoint without some of its blocks, as a clause."""


@dataclass(frozen=True)
class BlockList:
    """The members of one list, by name, and those of them that go."""

    path: str
    names: tuple[str, ...]
    gone: frozenset[str]

    @property
    def left(self) -> tuple[int, ...]:
        """Positions of the members that stay."""
        return tuple(k for k, name in enumerate(self.names) if name not in self.gone)

    @property
    def moves(self) -> dict[str, str]:
        """For each member that stays its name in the shorter list."""
        return {self.names[k]: self.names[j] for j, k in enumerate(self.left)}

    def at(self, name: str) -> str:
        """The path of a member."""
        return f"{self.path}.{name}" if self.path else name


def lists_of(chain: Chain, gone: Collection[int]) -> tuple[BlockList, ...]:
    """All lists of a chain's blocks, in the order in which they run, and their kin that hold no block of it (a stage of one).

    A list is a Sequential or ModuleList with all its members, or any other module with its members that are blocks.
    """
    members: dict[str, list[str]] = {}
    doomed: dict[str, set[str]] = {}
    for index, block in enumerate(chain.blocks):
        path, _, name = block.path.rpartition(".")
        members.setdefault(path, []).append(name)
        doomed.setdefault(path, set()).update({name} if index in gone else ())
    found = {}
    for path, names in members.items():
        parent = chain.model.get_submodule(path)
        if isinstance(parent, nn.Sequential | nn.ModuleList):
            names = [name for name, _ in parent.named_children()]
        found[path] = BlockList(path, tuple(names), frozenset(doomed[path]))
    for path, module in chain.model.named_modules():
        if (
            path not in found
            and isinstance(module, nn.Sequential | nn.ModuleList)
            and any(_kin(path, other) for other in members)
        ):
            found[path] = BlockList(path, tuple(name for name, _ in module.named_children()), frozenset())
    order = {path: number for number, (path, _) in enumerate(chain.model.named_modules())}
    return tuple(sorted(found.values(), key=lambda one: order[one.path]))


def length_of(model: nn.Module, one: BlockList) -> int:
    """How many of a list's names another network of the same kind has; -1 where it has no such list."""
    try:
        parent = model.get_submodule(one.path)
    except AttributeError:
        return -1
    if isinstance(parent, nn.Sequential | nn.ModuleList):
        return len(parent)
    return sum(name in parent._modules for name in one.names)


def _kin(one: str, other: str) -> bool:
    """Whether two paths differ in their numbers alone, and have some."""
    return one != other and bool(re.search(r"\d", other)) and re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
