"""Functions that look on while modules run, or stand in for what they do, and are gone afterwards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Before = Callable[[nn.Module, tuple, dict], Any]
"""Called with a module and its arguments before it runs."""
After = Callable[[nn.Module, tuple, Any], Any]
"""Called with a module, its positional arguments and its answer after it ran."""


@contextmanager
def hooked(*, before: Iterable[tuple[nn.Module, Before]] = (), after: Iterable[tuple[nn.Module, After]] = ()) -> Iterator[None]:
    """Inside, modules call what stands beside them, in the order given; the hooks go away also after an exception."""
    with ExitStack() as hooks:
        for module, hook in before:
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for module, hook in after:
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


@contextmanager
def answering(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Inside, each module's forward is the function beside it; afterwards its own again, also after an exception."""
    before = [vars(module).get("forward") for module in modules]
    try:
        for module, forward in zip(modules, forwards, strict=True):
            module.forward = forward
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
