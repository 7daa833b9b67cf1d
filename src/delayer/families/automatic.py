"""Networks that nobody described: repeated blocks found by structure and by the shapes of one batch."""

from collections import Counter
from math import prod

from torch import Tensor, nn

from delayer.calling import Inputs, call, ready
from delayer.errors import ModelError
from delayer.families._probe import BY_HAND, Visit, does_not_run


def blocks_by_structure(model: nn.Module, example: Inputs) -> list[str]:
    """Paths of the repeated blocks, in the order in which they run.

    A list is a `Sequential` or `ModuleList` whose members each run once, on a tensor. The list with the most parameters
    in members that look alike (same class, same parameter shapes) says what a block is; every other list that holds
    blocks of that class joins it (the stages of a network). Raises ModelError when nothing repeats.
    """
    calls = _calls(model, example)
    lists: dict[str, list[str]] = {}
    again = ""
    for path, module in model.named_modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)) and len(module):
            children = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            if all(calls.get(child, 0) == 1 for child in children):
                lists[path] = children
            elif often := next((child for child in children if 1 < calls.get(child, 0) < NO_TENSOR), None):
                again = f" {often} runs {calls[often]} times, and a block that is used in several places cannot be cut."
    alike = {path: _num_alike(model, children) for path, children in lists.items()}
    best = max(alike, key=lambda path: alike[path], default=None)
    if best is None or alike[best] == 0:
        raise ModelError(
            f"{type(model).__name__} has no list (Sequential or ModuleList) of repeated blocks that each run once on a "
            f"tensor.{again} {BY_HAND}"
        )
    kinds = {type(model.get_submodule(child)) for child in lists[best] if _looks(model, child)[1]}
    blocks: set[str] = set()
    for path, children in lists.items():
        inside = path.startswith(f"{best}.") or best.startswith(f"{path}.") or not path
        if path == best or (not inside and kinds & {type(model.get_submodule(child)) for child in children}):
            blocks.update(children)
    return [path for path in calls if path in blocks and not any(path.startswith(f"{other}.") for other in blocks)]


NO_TENSOR = 1 << 20
"""Counted for a run without a tensor of numbers in front."""


def _looks(model: nn.Module, path: str) -> tuple[str, tuple]:
    """The class of a module and the shapes of its parameters."""
    module = model.get_submodule(path)
    return type(module).__qualname__, tuple(tuple(p.shape) for p in module.parameters())


def _num_alike(model: nn.Module, children: list[str]) -> int:
    """Parameters of the children that look like another child of the same list."""
    looks = [_looks(model, child) for child in children]
    common = Counter(looks)
    return sum(sum(prod(shape) for shape in look[1]) for look in looks if common[look] > 1)


def _calls(model: nn.Module, example: Inputs) -> dict[str, int]:
    """How often each module runs with a tensor in front, in the order of its first run."""
    counts: dict[str, int] = {}
    handles = []

    def hook(path):
        def count(module, args, kwargs):
            first = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            fits = isinstance(first, Tensor) and first.is_floating_point()
            counts[path] = counts.get(path, 0) + (1 if fits else NO_TENSOR)

        return count

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(hook(path), with_kwargs=True))
        with ready(model, example) as inputs:
            call(model, inputs)
    except Exception as error:  # whatever a network raises on data that it was not made for
        raise does_not_run(model, example, error) from error
    finally:
        for handle in handles:
            handle.remove()
    return counts


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
