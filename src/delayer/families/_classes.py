"""Blocks told by their class alone: those that stand as attributes, and stages of one block each."""

from collections import defaultdict

from torch import nn

from delayer.families._runs import LISTS, Runs, has_parts, place_of


def blocks_by_class(model: nn.Module, runs: Runs) -> list[str]:
    """Modules of one class, of which some keep their shape: blocks that stand as attributes, or one to a stage.

    The class with the most parameters in modules that do, and others beside them that have a hundredth of those. Modules
    without parts of their own are none, nor are parts of chosen ones, branches, classes whose modules get lists of different
    lengths, or a class of which there is but one.
    """
    kinds: dict[type, list[str]] = defaultdict(list)
    for path, run in runs.items():
        module = model.get_submodule(path)
        branch = run.beside and not run.handed
        if path and run.once and not branch and not isinstance(module, LISTS) and has_parts(model, path):
            kinds[type(module)].append(path)
    size = {
        kind: sum(p.numel() for path in paths if runs[path].keeps for p in model.get_submodule(path).parameters())
        for kind, paths in kinds.items()
        if len(paths) > 1 and len({runs[path].listed for path in paths}) == 1
    }
    blocks: list[str] = []
    for kind in sorted(size, key=size.__getitem__, reverse=True):
        beside = not blocks or {place_of(path.rpartition(".")[0]) for path in blocks} & {
            place_of(path.rpartition(".")[0]) for path in kinds[kind]
        }
        apart = not any(_nested(one, other) for one in kinds[kind] for other in [*blocks, *kinds[kind]])
        if size[kind] and beside and apart and size[kind] * 100 >= max(size.values()):
            blocks += kinds[kind]
    return [path for path in runs if path in set(blocks)]


def _nested(one: str, other: str) -> bool:
    return one != other and (one.startswith(f"{other}.") or other.startswith(f"{one}."))
