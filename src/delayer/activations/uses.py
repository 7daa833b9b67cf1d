"""Which activations of a network have no module of their own, found by running it once; each then gets one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from delayer.activations.kinds import BY_CALL, activation_of
from delayer.activations.separate import separate_, unshare_
from delayer.errors import ModelError
from delayer.network.calling import Inputs, call, evaluating, output_of
from delayer.network.hooks import hooked


def separate_uses_(model: nn.Module, example: Inputs) -> None:
    """Give each use of an activation a module of its own; the function stays the same.

    example: inputs of a small batch, where the network is. Raises ModelError naming the module whose forward pass cannot
    be traced, or that would compute something else.
    """
    unshare_(model)
    if owners := _owners(model, example):
        expected = _answer(model, example)
        for path in owners:
            owner = model.get_submodule(path)
            kind, children = type(owner), list(owner._modules)
            separate_(owner, path)
            if not _same(_answer(model, example), expected):
                owner.__class__ = kind
                for name in owner._modules.keys() - children:
                    del owner._modules[name]
                raise ModelError(
                    f"{kind.__name__}{f' at {path}' if path else ''} computes something else once its forward pass is traced, "
                    "so its activations cannot be told apart. Give it activation modules (nn.ReLU() in place of F.relu), one "
                    "for each use."
                )


def _answer(model: nn.Module, example: Inputs) -> Tensor:
    """With NaN as zero: what is compared must be equal to itself."""
    with evaluating(model):
        return output_of(call(model, example)).nan_to_num()


def _same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit on a CPU; kernels of accelerators may add in another order from run to run."""
    if expected.device.type == "cpu":
        return torch.equal(found, expected)
    return torch.allclose(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def _owners(model: nn.Module, example: Inputs) -> list[str]:
    """Modules whose own forward calls activations as functions, or one activation module more than once."""
    calls, runs, owners = {}, {}, {}
    names = {module: path for path, module in model.named_modules()}

    def enter(module: nn.Module, caller: nn.Module | None) -> None:
        runs[module] = runs.get(module, 0) + 1
        if activation_of(module) is not None and caller is not None:
            calls.setdefault(module, []).append(caller)

    with tracked(model, enter) as stack, _Calls(lambda: owners.setdefault(stack[-1], None), stack), evaluating(model):
        call(model, example)
    for module, callers in calls.items():
        if len(set(callers)) > 1:
            by = " and by ".join(sorted(names[caller] or "the network itself" for caller in set(callers)))
            raise ModelError(
                f"The activation {names[module]} is called by {by}, so its uses cannot be told apart. "
                "Give each its own activation module."
            )
        if len(callers) > runs[callers[0]]:
            owners.setdefault(callers[0], None)
    return [names[owner] for owner in owners]


class _Calls(TorchFunctionMode):
    """Notes activations that are called as functions outside of activation modules."""

    def __init__(self, note, stack: list[nn.Module]):
        super().__init__()
        self.note, self.stack = note, stack

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = getattr(func, "__name__", "")
        known = func in BY_CALL or (named in ("relu", "relu_") and func is getattr(Tensor, named, None))
        if known and self.stack and activation_of(self.stack[-1]) is None:
            self.note()
        return func(*args, **(kwargs or {}))


@contextmanager
def tracked(model: nn.Module, enter: Callable[[nn.Module, nn.Module | None], None]) -> Iterator[list[nn.Module]]:
    """Inside: the modules that are running, outermost first; `enter(module, caller)` at each start."""
    stack: list[nn.Module] = []

    def start(module: nn.Module, args: tuple, kwargs: dict) -> None:
        enter(module, stack[-1] if stack else None)
        stack.append(module)

    def end(module: nn.Module, args: tuple, output: Any) -> None:
        stack.pop()

    modules = list(model.modules())
    with hooked(before=[(module, start) for module in modules], after=[(module, end) for module in modules]):
        yield stack
