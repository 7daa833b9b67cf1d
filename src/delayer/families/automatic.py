"""Networks that nobody described: repeated blocks found by structure and by the shapes of one batch."""

import weakref
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

from delayer.errors import ModelError
from delayer.families._places import Visit, hidden_states
from delayer.families._probe import BY_HAND, does_not_run
from delayer.network.calling import Inputs, call, ready, seeded, unfused
from delayer.network.handing import apart, arguments
from delayer.network.hooks import hooked


def blocks_by_structure(model: nn.Module, example: Inputs) -> list[str]:
    """Paths of the repeated blocks, in the order in which they run.

    A list is a `Sequential` or `ModuleList` whose members each run once, on a tensor, and not all on the very same one (as
    branches do); or any module in which two members that look alike (same class, same parameter shapes) keep the shape of
    what they get and hand it on to each other. The list with the most parameters in members that look alike and keep their
    shape says what a block is. Every other list of blocks of that class joins it (the stages of a network), and so does a list
    of others that hand on tensors of as many dimensions and hold a tenth of its parameters (a decoder beside an encoder).
    Raises ModelError when nothing repeats.
    """
    calls, members, again = _calls(model, example), {}, ""
    for path, module in model.named_modules():
        children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
        if children and all(child in calls and calls[child].times == 1 and calls[child].fits for child in children):
            members[path] = children
        elif isinstance(module, LISTS) and (often := next((c for c in children if c in calls and calls[c].times > 1), None)):
            again = f" {often} runs {calls[often].times} times, and a block that is used in several places cannot be cut."
    alike = {path: _num_alike(model, children, calls) for path, children in members.items()}
    lists = {path for path, children in members.items() if _is_list(model.get_submodule(path), children, model, calls)}
    best = max(lists, key=lambda path: alike[path], default=None)
    if best is None or not alike[best][1]:
        raise ModelError(
            f"{type(model).__name__} has no list (Sequential or ModuleList) of repeated blocks that each run once on a "
            f"tensor.{again} {BY_HAND}"
        )
    holder, chosen = type(model.get_submodule(best)), [best]
    kinds = {type(model.get_submodule(child)) for child in members[best] if _looks(model, child)[1]}
    for path in sorted(members, key=lambda path: alike[path], reverse=True):
        if any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for one in chosen) or not path or not best:
            continue
        of_kind = kinds & {type(model.get_submodule(child)) for child in members[path]}
        dims = [calls[children[-1]].dims for children in (members[path], members[best])]
        kin = alike[path][0] * 10 >= alike[best][0] > 0 and dims[0] == dims[1] and any(calls[c].handed for c in members[path])
        if (path in lists and (of_kind or kin)) or (of_kind and type(model.get_submodule(path)) is holder):
            chosen.append(path)
    blocks = {child for path in chosen for child in members[path]}
    return [path for path in calls if path in blocks and not any(path.startswith(f"{other}.") for other in blocks)]


LISTS = (nn.Sequential, nn.ModuleList)


def _is_list(module: nn.Module, children: list[str], model: nn.Module, calls: dict[str, "Calls"]) -> bool:
    """Whether members of a module can be blocks; branches, which all get the very same tensor, are none."""
    if isinstance(module, LISTS):
        return len(children) == 1 or any(calls[child].handed or not calls[child].beside for child in children[1:])
    return any(
        calls[two].handed and calls[two].keeps and _looks(model, one) == _looks(model, two) and _looks(model, two)[1]
        for one, two in pairwise(children)
    )


def _looks(model: nn.Module, path: str) -> tuple[str, tuple]:
    """The class of a module and the shapes of its parameters."""
    module = model.get_submodule(path)
    return type(module).__qualname__, tuple(tuple(p.shape) for p in module.parameters())


def _num_alike(model: nn.Module, children: list[str], calls: dict[str, "Calls"]) -> tuple[int, int]:
    """Parameters of the children that look like another child of the same list: of those that keep their shape, of all."""
    looks = [_looks(model, child) for child in children]
    common = Counter(looks)
    sizes = [sum(prod(shape) for shape in look[1]) * (common[look] > 1) for look in looks]
    return sum(size for size, child in zip(sizes, children, strict=True) if calls[child].keeps), sum(sizes)


@dataclass
class Calls:
    """How a module ran: how often, and what was seen of its first run.

    Whether it got a tensor of numbers, kept a shape, got what the member of its list before it gave (`handed`) or nothing
    but what that one got (`beside`), and the dimensions of its answer.
    """

    times: int = 0
    fits: bool = False
    keeps: bool = False
    handed: bool = False
    beside: bool = False
    dims: int = 0


def _calls(model: nn.Module, example: Inputs) -> dict[str, Calls]:
    """How each module ran, in the order of their first runs."""
    found: dict[str, Calls] = {}
    got: dict[str, list] = {}
    last: dict[str, tuple[list, list]] = {}

    def enter(path):
        def hook(module, args, kwargs):
            run = found.setdefault(path, Calls())
            run.times += 1
            if run.times == 1:
                tensors = list(hidden_states(arguments(args, kwargs)).values())
                before, given = last.get(path.rpartition(".")[0], ([], []))
                run.fits = bool(tensors)
                run.handed = any(ref() is tensor for ref in given for tensor in tensors)
                run.beside = all(any(ref() is tensor for ref in before) for tensor in tensors)
                got[path] = [(weakref.ref(tensor), tuple(tensor.shape)) for tensor in tensors]

        return hook

    def leave(path):
        def hook(module, args, output):
            run, answer = found[path], apart(output)
            tensors = list(hidden_states(answer.items).values()) if answer else []
            if run.times == 1 and tensors:
                run.keeps = any(tuple(tensor.shape) == shape for tensor in tensors for _, shape in got[path])
                run.dims = tensors[0].ndim
                last[path.rpartition(".")[0]] = [ref for ref, _ in got[path]], [weakref.ref(tensor) for tensor in tensors]

        return hook

    named = list(model.named_modules())
    watching = hooked(before=[(m, enter(path)) for path, m in named], after=[(m, leave(path)) for path, m in named])
    try:
        with watching, ready(model, example) as inputs, seeded(), unfused():
            call(model, inputs)
    except Exception as error:  # whatever a network raises on data that it was not made for
        raise does_not_run(model, example, error) from error
    return found


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
