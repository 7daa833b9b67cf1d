"""How the modules of a network run in one forward pass: how often, on what, and what they hand on to the next."""

import re
import weakref
from dataclasses import dataclass

from torch import nn

from delayer.families._places import hidden_states
from delayer.families._probe import does_not_run
from delayer.network.calling import Inputs, call, ready, seeded, unfused
from delayer.network.handing import apart, arguments
from delayer.network.hooks import hooked

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that hold others and, but for the first, do nothing themselves."""


@dataclass
class Run:
    """How a module ran: how often, and what was seen of its first run.

    Whether it got a tensor of numbers, kept a shape, got what the member of its holder before it gave (`handed`) or nothing
    but what that one got (`beside`), the dimensions of its answer, and how many of its tensors came in lists or the like.
    """

    times: int = 0
    fits: bool = False
    keeps: bool = False
    handed: bool = False
    beside: bool = False
    dims: int = 0
    listed: int = 0

    @property
    def once(self) -> bool:
        """Whether it ran once, on a tensor of numbers."""
        return self.times == 1 and self.fits


Runs = dict[str, Run]
"""How each module ran, by path, in the order of their first runs."""


def runs_of(model: nn.Module, example: Inputs) -> Runs:
    """How each module ran, by path, in the order of their first runs; those that did not run are missing.

    Raises ModelError when the forward pass fails.
    """
    found: dict[str, Run] = {}
    got: dict[str, list] = {}
    last: dict[str, tuple[list, list]] = {}

    def enter(path):
        def hook(module, args, kwargs):
            run = found.setdefault(path, Run())
            run.times += 1
            if run.times == 1:
                states = hidden_states(arguments(args, kwargs))
                tensors, run.listed = list(states.values()), sum("." in place for place in states)
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


def place_of(path: str) -> str:
    """A path without its numbers, which is the same for every stage of a network."""
    return re.sub(r"\d+", "#", path)


def has_parts(model: nn.Module, path: str) -> bool:
    """Whether a module has parts with weights, which a norm with an activation in it has not."""
    return any(True for child in model.get_submodule(path).children() for _ in child.parameters())
