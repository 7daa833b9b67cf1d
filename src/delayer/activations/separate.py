"""A module of its own for each use of an activation: calls become modules, shared modules become copies.

The function stays the same, bit for bit, and so do the names of all weights (a PReLU that is used twice shares its slopes
with its twin, whose name joins them). A forward pass that calls an activation
(`F.relu(x)`), or one module several times, is traced with its children as leaves and given the traced forward: once in
training mode and once in evaluation mode, where the two differ.
"""

import functools
import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import fx, nn

from delayer.activations.kinds import BY_CALL, Activation, activation_of, module_for
from delayer.errors import ModelError
from delayer.libraries import first_line

POSITIONAL = {"leaky_relu": ("negative_slope", "inplace"), "leaky_relu_": ("negative_slope",)}
"""Arguments behind the input, by a call's name; all others have `inplace` alone."""


class _Own(fx.Tracer):
    """Traces a module's own forward; what its children do stays closed.

    Arguments that are None by default are None while tracing: the branches that ask are decided there. The traced
    forward refuses another value, as it does not know what to do with it.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        defaults = inspect.signature(self.root.forward).parameters
        for k, arg in enumerate(args):
            name = getattr(getattr(arg, "node", None), "target", None)
            if isinstance(name, str) and name in defaults and defaults[name].default is None:
                self.create_proxy("call_function", must_be_none, (arg, name, type(self.root).__name__), {})
                args[k] = None
        return function, args


def must_be_none(value: Any, name: str, owner: str) -> None:
    """Stands in a traced forward for an argument that was not given when it was traced."""
    if value is not None:
        raise ModelError(
            f"{owner} gets an argument {name}, but its forward pass was traced without one to tell its activations "
            "apart. Give it activation modules (nn.ReLU() in place of F.relu), one for each use."
        )


def unshare_(model: nn.Module) -> None:
    """One activation module that stands in several places becomes a copy in each; trained slopes stay shared."""
    seen: set[int] = set()
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is None or activation_of(child) is None:
                continue
            if id(child) in seen:
                parent.set_submodule(name, _twin(child))
            seen.add(id(child))


def _twin(module: nn.Module) -> nn.Module:
    """A copy with the same parameters."""
    return deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})


def separate_(owner: nn.Module, path: str = "") -> list[str]:
    """Give each activation that a module's own forward uses a child of its own, and get the new children's names.

    owner: the module whose forward is looked at; its children are not. path: its name, for messages.
    Raises ModelError when the forward cannot be traced, saying why; the module is then as it was.
    """
    if getattr(owner, "separated_uses", False) or _runs_each_child_once(owner):
        return []
    where = f"{type(owner).__name__}{f' at {path}' if path else ''}"
    modes, was = {}, owner.training
    try:
        for training in (was, not was):
            owner.training = training
            modes[training] = _rewritten(owner, where)
    finally:
        owner.training = was
    (graph, new), (other, others) = modes[was], modes[not was]
    if {name: repr(module) for name, module in new.items()} != {name: repr(module) for name, module in others.items()}:
        raise ModelError(
            f"{where} uses {len(modes[True][1])} activations without a module of their own in training mode and "
            f"{len(modes[False][1])} in evaluation mode. Give it activation modules (nn.ReLU() in place of F.relu), "
            "one for each use."
        )
    if not new:
        return []
    for name, module in new.items():
        owner.add_module(name, module.train(was))
    forwards = {training: type(fx.GraphModule(owner, one[0])).forward for training, one in modes.items()}
    # A subclass in its place keeps the object, so that parents, families and plans know the module as before.
    kind = type(owner)
    members: dict[str, Any] = {"__module__": kind.__module__, "__doc__": kind.__doc__, "separated_uses": True}
    members["forward"] = forwards[was]
    if str(graph.python_code("self").src) != str(other.python_code("self").src):
        members |= {
            "_in_training": forwards[True],
            "_in_evaluation": forwards[False],
            "forward": functools.wraps(kind.forward)(_by_mode()),
        }
    owner.__class__ = type(kind.__name__, (kind,), members)
    return list(new)


def _runs_each_child_once(owner: nn.Module) -> bool:
    """Whether that is known without a trace, which takes a hundredth of a second for each mode."""
    children = owner._modules.values()
    return type(owner).forward is nn.Sequential.forward and len({id(child) for child in children}) == len(children)


def _by_mode() -> Callable:
    """A forward that goes the way of the module's mode."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        way: Callable = getattr(self, "_in_training" if self.training else "_in_evaluation")
        return way(*args, **kwargs)

    return forward


def _rewritten(owner: nn.Module, where: str) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The traced forward with a child for each use, and the children that it needs."""
    before = dict(vars(owner))
    try:
        graph = _Own().trace(owner)
    except Exception as error:  # a trace fails with whatever the module's code raises
        why = first_line(error).partition(". ")[0]
        raise ModelError(
            f"{where} calls its activations inside a forward pass that cannot be traced ({why}). "
            "Give it activation modules (nn.ReLU() in place of F.relu), one for each use."
        ) from error
    finally:  # whatever the forward noted on its module while tracing were no real values
        for name in [n for n, value in vars(owner).items() if n not in before or isinstance(value, fx.Proxy)]:
            vars(owner).pop(name)
            vars(owner).update({name: before[name]} if name in before else {})
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
            replacement = graph.create_node("call_module", child, (_input(node),))
        if _in_place(node, module):  # whoever reads the input later reads what the call made of it
            for user in _behind(node):
                user.replace_input_with(_input(node), replacement)
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    return graph, new


def _use(owner: nn.Module, node: fx.Node, where: str) -> tuple[Activation, nn.Module, str | None] | None:
    """The kind of activation that a node computes, a module that does, and the child's name where it is one."""
    if node.op == "call_module":
        name = str(node.target)
        child = owner.get_submodule(name)
        kind = activation_of(child)
        return kind and (kind, _twin(child), name)
    if node.op not in ("call_function", "call_method") or (kind := BY_CALL.get(node.target)) is None:
        return None
    given = {k: v for k, v in node.kwargs.items() if k != "input"}
    given |= dict(zip(POSITIONAL.get(_name(node), ("inplace",)), node.args[1:], strict=False))
    try:
        return kind, module_for(kind, given), None
    except ValueError as error:
        raise ModelError(f"An activation of {where} cannot become a module: {error}.") from error


def _input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]  # in the order of the call: an activation's input comes first


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", ""))


def _in_place(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return False  # its twin does the same to its input
    return _name(node).endswith("_") or node.kwargs.get("inplace") is True or any(a is True for a in node.args[1:])


def _behind(node: fx.Node) -> list[fx.Node]:
    """Those who read a node's input after the node."""
    order = {other: place for place, other in enumerate(node.graph.nodes)}
    return [user for user in _input(node).users if order[user] > order[node]]


def _free_name(owner: nn.Module, new: dict[str, nn.Module], kind: str) -> str:
    number = 1
    while hasattr(owner, f"{kind}_{number}") or f"{kind}_{number}" in new:
        number += 1
    return f"{kind}_{number}"
