"""Functions that look on while modules run, or stand in for what they do, and are gone afterwards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from delayer.network.precision import own_precision

Before = Callable[[nn.Module, tuple, dict], Any]
"""Called with a module and its arguments before it runs."""
After = Callable[[nn.Module, tuple, Any], Any]
"""Called with a module, its positional arguments and its answer after it ran."""


@contextmanager
def hooked(*, before: Iterable[tuple[nn.Module, Before]] = (), after: Iterable[tuple[nn.Module, After]] = ()) -> Iterator[None]:
    """Inside, modules call what stands beside them, in the order given and in full precision; gone also after an exception."""
    with ExitStack() as hooks:
        for module, hook in before:
            hooks.callback(module.register_forward_pre_hook(_looking_on(hook), with_kwargs=True).remove)
        for module, hook in after:
            hooks.callback(module.register_forward_hook(_looking_on(hook)).remove)
        yield


def _looking_on(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The same hook, which computes in its own precision, not in the network's."""

    def apart(*given: Any) -> Any:
        with own_precision():
            return hook(*given)

    return apart


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
