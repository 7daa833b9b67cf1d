"""A module's forward pass as a graph, opened as far as it can be traced."""

import inspect
from contextlib import suppress
from dataclasses import dataclass

from torch import fx, nn

from delayer.merging.reading import is_affine
from delayer.merging.verdict import Refusal


@dataclass(frozen=True)
class Trace:
    """A module's forward pass as a graph.

    faithful: it may stand for the module's own forward pass; not so where that takes optional arguments, by which it may
    branch.
    others: the same with other arguments given; a part has to look the same in all of them.
    closed: paths of the modules inside that could not be traced, with the reason; nothing merges across their walls.
    """

    graph: fx.Graph
    faithful: bool
    closed: tuple[tuple[str, str], ...]
    others: tuple[fx.Graph, ...] = ()


def trace(owner: nn.Module) -> Trace:
    """The owner's forward pass with its own modules opened as far as they can be traced, in evaluation mode.

    Raises Refusal with what stopped the trace.
    """
    modes = [(module, module.training) for module in owner.modules()]
    try:
        for module, _ in modes:
            module.training = False
        return _trace(owner, {})
    except Exception as error:  # a trace fails with whatever the module's code raises
        raise Refusal(f"the forward pass of {type(owner).__name__} cannot be traced ({_line(error)})") from error
    finally:
        for module, training in modes:
            module.training = training


def _trace(owner: nn.Module, known: dict[nn.Module, str]) -> Trace:
    tracer = _Open(known)
    given = [
        one
        for one in inspect.signature(owner.forward).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    needed = [one.name for one in given if one.default is one.empty]
    optional = [one.name for one in given if one.default is not one.empty]
    others: list[fx.Graph] = []
    try:
        graph = tracer.trace(owner)
        faithful = not any(node.op == "placeholder" and (node.args or node.target.startswith("*")) for node in graph.nodes)
        if not faithful:
            others = _called(tracer, owner, needed, [])
    except Exception:  # decorated forward passes, and such with **arguments, can be traced as somebody calls them
        graph, faithful = _called(tracer, owner, needed, [])[0], False
        with suppress(Exception):  # what branches on its optional arguments is known without them alone
            others = _called(tracer, owner, needed, optional)
    names = {module: path for path, module in owner.named_modules()}
    closed = tuple((names[module], reason) for module, reason in known.items() if reason and module in names)
    return Trace(graph, faithful, closed, tuple(others))


def _called(tracer: fx.Tracer, owner: nn.Module, needed: list[str], optional: list[str]) -> list[fx.Graph]:
    graph = tracer.trace(_Called(owner, len(needed), optional))
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            node.target = node.target.removeprefix("owner.")
    return [graph]


class _Called(nn.Module):
    """Calls a module with its required arguments and some others by name, at most ten in all."""

    def __init__(self, owner: nn.Module, num: int, names: list[str]):
        super().__init__()
        self.owner, self.num, self.names = owner, num, names

    def forward(self, a, b, c, d, e, f, g, h, i, j):
        values = (a, b, c, d, e, f, g, h, i, j)
        return self.owner(*values[: self.num], **dict(zip(self.names, values[self.num :], strict=False)))


class _Open(fx.Tracer):
    """Opens containers and modules of users and libraries, leaves layers closed, and what cannot be traced."""

    def __init__(self, known: dict[nn.Module, str]):
        super().__init__()
        self.known = known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        module = m
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            return False
        if isinstance(self.root, _Called) and module is self.root.owner:
            return False
        if is_affine(module) or type(module).__module__.startswith("torch.nn"):
            return True
        if module not in self.known:
            try:
                _trace(module, self.known)
                self.known[module] = ""
            except Exception as error:  # then it stays closed
                self.known[module] = _line(error)
        return bool(self.known[module])


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
