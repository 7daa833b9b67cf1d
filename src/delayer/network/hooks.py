"""Functions that look on while modules run, and are gone afterwards."""

from collections.abc import Callable, Iterable, Iterator
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
