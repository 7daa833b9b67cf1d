"""Putting the one layer where a part stood."""

from torch import fx, nn

from delayer.merging.reading import passes
from delayer.merging.regions import Region
from delayer.merging.verdict import Refusal


def put_(owner: nn.Module, region: Region, merged: nn.Module) -> None:
    """Replace a part of a module by one layer, in place.

    Without sums (or slices) the layer stands in the place of the part's first one and the others pass, so that forward
    passes stay as they are. With them the owner gets its traced forward pass, in which they are gone.
    Raises Refusal when that pass may not be written down, because it has optional arguments.
    """
    merged.train(owner.training)
    if not region.part.rewrites:
        first = next(step.path for step, layer in zip(region.part.steps, region.part.layers, strict=True) if not passes(layer))
        for path in region.part.paths:
            owner.set_submodule(path, merged if path == first else nn.Identity())
        return
    check_rewritable(region)
    graph, end = region.nodes[0].graph, region.nodes[-1]
    number = 1
    while hasattr(owner, name := f"merged_{number}"):
        number += 1
    owner.add_module(name, merged)
    with graph.inserting_before(end):
        replacement = graph.call_module(name, (region.source,))
    end.replace_all_uses_with(replacement)
    for node in reversed(region.nodes):
        graph.erase_node(node)
    for path in region.part.paths:
        _remove(owner, path)
    graph.lint()
    # A subclass in its place keeps the object, so that parents, families and plans know the module as before.
    kind, traced = type(owner), type(fx.GraphModule(owner, graph)).forward
    owner.__class__ = type(kind.__name__, (kind,), {"forward": traced, "__module__": kind.__module__})


def check_rewritable(region: Region) -> None:
    """Raises Refusal when a traced forward pass may not stand for the module's own."""
    if not region.faithful:
        raise Refusal("the shortcut lies in a forward pass with optional arguments, of which a trace knows one case only")


def _remove(owner: nn.Module, path: str) -> None:
    """Take a module out, and the containers that it leaves empty."""
    parent, _, name = path.rpartition(".")
    holder = owner.get_submodule(parent)
    del holder._modules[name]
    if parent and not holder._modules and isinstance(holder, nn.Sequential):
        _remove(owner, parent)
