"""A module's forward pass as a graph, opened as far as it can be traced."""

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

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
    given = [
        one
        for one in inspect.signature(owner.forward).parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    needed = [one.name for one in given if one.default is one.empty]
    optional = [one.name for one in given if one.default is not one.empty]
    others: list[fx.Graph] = []
    try:
        graph = _graph(owner, known)
        faithful = not any(node.op == "placeholder" and (node.args or node.target.startswith("*")) for node in graph.nodes)
        if not faithful:
            others = _called(known, owner, needed, [])
    except Exception:  # decorated forward passes, and such with **arguments, can be traced as somebody calls them
        graph, faithful = _called(known, owner, needed, [])[0], False
        with suppress(Exception):  # what branches on its optional arguments is known without them alone
            others = _called(known, owner, needed, optional)
    names = {module: path for path, module in owner.named_modules()}
    closed = tuple((names[module], reason) for module, reason in known.items() if reason and module in names)
    return Trace(graph, faithful, closed, tuple(others))


def _graph(root: nn.Module, known: dict[nn.Module, str]) -> fx.Graph:
    while True:
        with suppress(_Closed):
            return _Open(known).trace(root)


def _called(known: dict[nn.Module, str], owner: nn.Module, needed: list[str], optional: list[str]) -> list[fx.Graph]:
    graph = _graph(_Called(owner, len(needed), optional), known)
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


class _Closed(BaseException):
    """Ends a trace once a module is found to stay closed, past whatever the modules around it catch."""


class _Open(fx.Tracer):
    """Opens containers and modules of users and libraries, leaves layers closed, and what cannot be traced.

    known: what was tried by itself, with the reason why it stays closed, or "". Only what fails where it is called is tried by
    itself, since each trace costs more for the classes that it patches than for what it follows.
    """

    def __init__(self, known: dict[nn.Module, str]):
        super().__init__()
        self.known = known

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if m in self.known or self._never_closed(m) or self.is_leaf_module(m, ""):
                raise
            try:
                _trace(m, self.known)
                self.known[m] = ""
            except Exception as error:  # then it stays closed
                self.known[m] = _line(error)
                raise _Closed from error
            raise

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if self._never_closed(m):
            return False
        return is_affine(m) or type(m).__module__.startswith("torch.nn") or bool(self.known.get(m))

    def _never_closed(self, module: nn.Module) -> bool:
        plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
        return plain or (isinstance(self.root, _Called) and module is self.root.owner)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
