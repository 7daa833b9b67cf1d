"""What could become one layer inside a module, found in a trace of its forward pass."""

import operator
from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx, nn

from delayer.merging.part import Part, Step
from delayer.merging.reading import is_affine
from delayer.merging.shortcuts import shortcut_of
from delayer.merging.tracing import Trace, trace

_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Region:
    """A part as it stands in a traced forward pass.

    part: its layers are the module's own. nodes: one a step. source: whose value the part takes.
    faithful: the trace may stand for the module's own forward pass.
    """

    part: Part
    nodes: tuple[fx.Node, ...]
    source: fx.Node
    faithful: bool

    def run(self, start: int, stop: int) -> "Region":
        """Steps start .. stop-1, which follow one another without a sum."""
        steps = [Step((k,), self.part.steps[i].path) for k, i in enumerate(range(start, stop))]
        source = self.nodes[start].all_input_nodes[0]
        return Region(Part(steps, list(self.part.layers)[start:stop]), self.nodes[start:stop], source, self.faithful)

    def legs(self) -> list["Region"]:
        """Maximal runs of layers without a sum or a shortcut's slice, each reading the one before."""
        found: list[list[int]] = []
        for i, step in enumerate(self.part.steps):
            if not step.path:
                continue
            if found and found[-1][-1] == i - 1 and step.inputs == (i,):
                found[-1].append(i)
            else:
                found.append([i])
        return [self.run(leg[0], leg[-1] + 1) for leg in found]


def regions(owner: nn.Module, traced: Trace | None = None) -> list[Region]:
    """Every maximal part of a module: layers that merge in principle, each read by the next alone, and sums of those.

    Slices of every n-th pixel and zeros for new channels count as layers.

    A sum belongs to a part when both its values come from the same place: from layers that read it, or it itself.
    Raises Refusal when the forward pass cannot be traced.
    """
    traced = trace(owner) if traced is None else traced
    found = _found(owner, traced.graph, traced.faithful)
    for graph in traced.others:
        alike = {(region.part.paths, region.part.num_sums) for region in _found(owner, graph, False)}
        found = [region for region in found if (region.part.paths, region.part.num_sums) in alike]
    return found


def _found(owner: nn.Module, graph: fx.Graph, faithful: bool) -> list[Region]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    places = Counter(id(module) for _, module in owner.named_modules(remove_duplicate=False))
    source: dict[fx.Node, fx.Node] = {}
    absorbed: set[fx.Node] = set()

    def inside(node) -> fx.Node | None:
        return source.get(node) if isinstance(node, fx.Node) and len(node.users) == 1 else None

    for node in graph.nodes:
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node):
            layer = owner.get_submodule(str(node.target))
            if is_affine(layer) and calls[node.target] == 1 and places[id(layer)] == 1:
                before = node.args[0]
                source[node] = inside(before) or before
                absorbed |= {before} if inside(before) else set()
        elif shortcut_of(node) is not None:
            before = node.args[0]
            source[node] = inside(before) or before
            absorbed |= {before} if inside(before) else set()
        elif node.target in _SUMS and len(node.args) == 2 and not node.kwargs and node.args[0] is not node.args[1]:
            one, other = node.args
            start = inside(one) or inside(other)
            if start is not None and all(inside(x) is start or x is start for x in (one, other)):
                source[node] = start
                absorbed |= {x for x in (one, other) if x is not start}
    return [_region(owner, graph, end, source, faithful) for end in source if end not in absorbed]


def _region(owner: nn.Module, graph: fx.Graph, end: fx.Node, source: dict[fx.Node, fx.Node], faithful: bool) -> Region:
    start, wanted, todo = source[end], set(), [end]
    while todo:
        node = todo.pop()
        if node is not start and node not in wanted:
            wanted.add(node)
            todo += node.all_input_nodes
    nodes = [node for node in graph.nodes if node in wanted]
    number = {start: 0} | {node: k for k, node in enumerate(nodes, 1)}
    steps = [
        Step(tuple(number[x] for x in node.all_input_nodes), str(node.target) if node.op == "call_module" else "")
        for node in nodes
    ]
    layers = [owner.get_submodule(step.path) if step.path else shortcut_of(node) for step, node in zip(steps, nodes, strict=True)]
    return Region(Part(steps, layers), tuple(nodes), start, faithful)
