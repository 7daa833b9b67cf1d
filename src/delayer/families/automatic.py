"""Networks that nobody described: repeated blocks found by structure and by the shapes of one batch."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from math import prod

from torch import nn

from delayer.errors import ModelError
from delayer.families._classes import blocks_by_class
from delayer.families._places import Visit
from delayer.families._runs import LISTS, Runs, has_parts, place_of, runs_of
from delayer.families._suggesting import why_none
from delayer.network.calling import Inputs


def blocks_by_structure(model: nn.Module, example: Inputs) -> Iterator[list[str]]:
    """Paths of repeated blocks, in the order in which they run; the likeliest set of them first.

    A list is a `Sequential`, `ModuleList` or `ModuleDict` whose members each run once, on a tensor, and not all on the very
    same one (as branches do); or any module in which two members that look alike (same class, same parameter shapes) keep the
    shape of what they get and hand it on to each other. The list with the most parameters in members that look alike and keep
    their shape says what a block is. The lists in the same place of other stages join it, every other list of blocks of that
    class, and a list of others that hand on tensors of as many dimensions and hold a tenth of its parameters (a decoder beside
    an encoder). Where no members look alike, modules of one class do that run once each, wherever they stand (`blocks_by_class`).
    Raises ModelError when nothing repeats.
    """
    runs = runs_of(model, example)
    members = _members(model, runs)
    alike = {path: _num_alike(model, children, runs) for path, children in members.items()}
    lists = {path for path, children in members.items() if _is_list(model.get_submodule(path), children, model, runs)}
    found: list[list[str]] = []
    for best in sorted((path for path in lists if alike[path][1]), key=lambda path: alike[path], reverse=True):
        if not any(set(members[best]) & set(blocks) for blocks in found):
            found.append(_joined(model, best, members, lists, alike, runs))
            yield found[-1]
    if classes := blocks_by_class(model, runs):
        found.append(classes)
        yield classes
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no list (Sequential or ModuleList) of repeated blocks that each run once on a "
            f"tensor. {why_none(model, runs)}"
        )


def _members(model: nn.Module, runs: Runs) -> dict[str, list[str]]:
    """For each module all of whose members run once on a tensor, the paths of those."""
    members = {}
    for path, module in model.named_modules():
        children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        if children and all(child in runs and runs[child].once for child in children):
            members[path] = children
    return members


def _joined(
    model: nn.Module, best: str, members: dict[str, list[str]], lists: set[str], alike: dict[str, tuple[int, int]], runs: Runs
) -> list[str]:
    """The blocks of the list that says what a block is, and of all lists that join it."""
    holder, chosen = type(model.get_submodule(best)), [best]
    kinds = {type(model.get_submodule(child)) for child in members[best] if runs[child].keeps and _looks(model, child)[1]}
    whole = any(has_parts(model, child) for child in members[best])

    def nearness(path: str) -> int:
        """3 for a list in the same place of another stage, 2 for one of blocks of that class, 1 for kin, 0 for none."""
        of_kind = bool(kinds & {type(model.get_submodule(child)) for child in members[path]})
        if (
            path in lists
            and place_of(path) == place_of(best)
            and any(has_parts(model, child) for child in members[path]) == whole
        ):
            return 3
        if of_kind and (path in lists or type(model.get_submodule(path)) is holder):
            return 2
        dims = [runs[children[-1]].dims for children in (members[path], members[best])]
        large = alike[path][0] * 10 >= alike[best][0] > 0
        return int(path in lists and large and dims[0] == dims[1] and any(runs[c].handed for c in members[path]))

    order = {path: (nearness(path), alike[path]) for path in members if path and best}
    for path in sorted(order, key=order.__getitem__, reverse=True):
        if order[path][0] and not any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for one in chosen):
            chosen.append(path)
    blocks = {child for path in chosen for child in members[path]}
    return [path for path in runs if path in blocks and not any(path.startswith(f"{other}.") for other in blocks)]


def _is_list(module: nn.Module, children: list[str], model: nn.Module, runs: Runs) -> bool:
    """Whether members of a module can be blocks.

    Branches are none, which all get the very same tensor, nor are layers that each get what all layers before them gave.
    """
    if len(children) > 1 and all(runs[one].listed < runs[two].listed for one, two in pairwise(children)):
        return False
    if isinstance(module, LISTS):
        return len(children) == 1 or any(runs[child].handed or not runs[child].beside for child in children[1:])
    if _is_member(module, children, model, runs):
        return False
    return any(
        runs[two].handed and runs[two].keeps and _looks(model, one) == _looks(model, two) and _looks(model, two)[1]
        for one, two in pairwise(children)
    )


def _is_member(module: nn.Module, children: list[str], model: nn.Module, runs: Runs) -> bool:
    """Whether a module is a block itself: it stands in a list among others of its class, of which some keep their shape."""
    path = children[0].rpartition(".")[0]
    holder, _, _ = path.rpartition(".")
    if not path or not isinstance(model.get_submodule(holder), LISTS):
        return False
    others = [
        f"{holder}.{name}" if holder else name
        for name, other in model.get_submodule(holder).named_children()
        if type(other) is type(module)
    ]
    return len(others) > 1 and any(runs[other].keeps for other in others if other in runs)


def _looks(model: nn.Module, path: str) -> tuple[str, tuple]:
    """The class of a module and the shapes of its parameters."""
    module = model.get_submodule(path)
    return type(module).__qualname__, tuple(tuple(p.shape) for p in module.parameters())


def _num_alike(model: nn.Module, children: list[str], runs: Runs) -> tuple[int, int]:
    """Parameters of the children that look like another child of the same list: of those that keep their shape, of all."""
    looks = [_looks(model, child) for child in children]
    common = Counter(looks)
    sizes = [sum(prod(shape) for shape in look[1]) * (common[look] > 1) for look in looks]
    return sum(size for size, child in zip(sizes, children, strict=True) if runs[child].keeps), sum(sizes)


def guess_axis(model: nn.Module, visits: list[Visit]) -> int:
    """Where features are, 1 or -1: the axis whose size the blocks' biases and norms have, then the likelier one.

    Maps of four dimensions are pictures: channels come first where the last two sizes agree more often than the
    second and third. Others are tokens, features last.
    """
    votes = Counter()
    for visit in visits:
        shape = visit.after.shape
        lengths = Counter(len(p) for p in model.get_submodule(visit.path).parameters() if p.ndim == 1)
        votes[1] += lengths[shape[1]] if len(shape) > 2 else 0
        votes[-1] += lengths[shape[-1]]
    if votes[1] != votes[-1]:
        return 1 if votes[1] > votes[-1] else -1
    maps = [t.shape for visit in visits for t in (visit.before, visit.after) if t.ndim == 4]
    return 1 if maps and sum(s[2] == s[3] for s in maps) >= sum(s[1] == s[2] for s in maps) else -1
