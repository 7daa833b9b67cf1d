"""A module of its own for each use of an activation: calls become modules, shared modules become copies.

The function stays the same, bit for bit, and so do the names of all weights. A forward pass that calls an activation
(`F.relu(x)`), or one module several times, is traced with its children as leaves and given the traced forward.
"""

import copy

import torch
from torch import fx, nn

from delayer.activations import BY_CALL, Activation, activation_of, module_for
from delayer.errors import ModelError
from delayer.libraries import first_line


class _Own(fx.Tracer):
    """Traces a module's own forward; what its children do stays closed."""

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return True


def unshare_(model: nn.Module) -> None:
    """One activation module that stands in several places becomes a copy in each; trained slopes stay shared."""
    seen: set[int] = set()
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is None or activation_of(child) is None:
                continue
            if id(child) in seen:
                parent._modules[name] = copy.copy(child)
            seen.add(id(child))


def separate_(owner: nn.Module, path: str = "") -> list[str]:
    """Give each activation that a module's own forward uses a child of its own, and get the new children's names.

    owner: the module whose forward is looked at; its children are not. path: its name, for messages.
    Raises ModelError when the forward cannot be traced, saying why; the module is then as it was.
    """
    where = f"{type(owner).__name__}{f' at {path}' if path else ''}"
    try:
        graph = _Own().trace(owner)
    except Exception as error:  # a trace fails with whatever the module's code raises
        raise ModelError(
            f"{where} calls its activations inside a forward pass that cannot be traced ({first_line(error)}). "
            "Give it activation modules (nn.ReLU() in place of F.relu), one for each use."
        ) from error
    new: dict[str, nn.Module] = {}
    uses: dict[str, int] = {}
    for node in list(graph.nodes):
        found = _use(owner, node, where)
        if found is None:
            continue
        kind, module, name = found
        if name is not None:
            uses[name] = uses.get(name, 0) + 1
            if uses[name] == 1:
                continue
        child = _free_name(owner, new, kind.name)
        new[child] = module
        with graph.inserting_before(node):
            replacement = graph.call_module(child, (_input(node),))
        if name is None and _in_place(node):  # whoever reads the input later reads what the call made of it
            for user in _behind(node):
                user.replace_input_with(_input(node), replacement)
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    if not new:
        return []
    for name, module in new.items():
        owner.add_module(name, module.train(owner.training))
    graph.lint()
    # A subclass in its place keeps the object, so that parents, families and plans know the module as before.
    kind, traced = type(owner), type(fx.GraphModule(owner, graph)).forward
    owner.__class__ = type(kind.__name__, (kind,), {"forward": traced, "__module__": kind.__module__})
    return list(new)


def _use(owner: nn.Module, node: fx.Node, where: str) -> tuple[Activation, nn.Module, str | None] | None:
    """The kind of activation that a node computes, a module that does, and the child's name where it is one."""
    if node.op == "call_module":
        child = owner.get_submodule(node.target)
        kind = activation_of(child)
        return kind and (kind, copy.copy(child), node.target)
    if node.op not in ("call_function", "call_method") or (kind := BY_CALL.get(node.target)) is None:
        return None
    names = {torch.nn.functional.leaky_relu: ("negative_slope",), torch.nn.functional.leaky_relu_: ("negative_slope",)}
    given = {k: v for k, v in node.kwargs.items() if k != "input"}
    given |= dict(zip(names.get(node.target, ("inplace",)), node.args[1:], strict=False))
    try:
        return kind, module_for(kind, given), None
    except ValueError as error:
        raise ModelError(f"An activation of {where} cannot become a module: {error}.") from error


def _input(node: fx.Node) -> fx.Node:
    return node.args[0] if node.args else node.kwargs["input"]


def _in_place(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else node.target.__name__
    return name.endswith("_") or node.kwargs.get("inplace") is True or True in node.args[1:]


def _behind(node: fx.Node) -> list[fx.Node]:
    """Those who read a node's input after the node."""
    order = {other: place for place, other in enumerate(node.graph.nodes)}
    return [user for user in _input(node).users if order[user] > order[node]]


def _free_name(owner: nn.Module, new: dict[str, nn.Module], kind: str) -> str:
    number = 1
    while hasattr(owner, f"{kind}_{number}") or f"{kind}_{number}" in new:
        number += 1
    return f"{kind}_{number}"
