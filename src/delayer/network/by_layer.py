"""A network whose weights lie in files, run with one layer's weights in memory at a time.

Each module that holds weights of its own lets go of them when it has run. Its class is one made from its own, of the same name.
Weights of half precision are widened while a module runs, so that the network does what it would do if it had been opened in
float32; products that autocast takes in bfloat16 read them as they are.
"""

from functools import cache
from typing import Any

import torch
from torch import nn

from delayer.network.mapped import MappedWeight


class _Lightly:
    """What a module that holds mapped weights does besides: they are there while it runs."""

    _parameters: dict[str, Any]
    runs: Any
    """The forward of the class that it is made from."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        own = dict(self._parameters)
        rows = type(self).runs is nn.Embedding.forward
        try:
            if not rows:
                self._parameters.update({name: _wide(weight, type(self).runs) for name, weight in own.items()})
            found = type(self).runs(self, *args, **kwargs)
        finally:
            self._parameters.update(own)
            for weight in own.values():
                if isinstance(weight, MappedWeight):
                    weight.let_go()
        return found.float() if rows and found.itemsize < 4 else found


def _wide(weight: Any, forward: Any) -> Any:
    """A weight in float32, where it is one of half precision that no autocast reads."""
    if not isinstance(weight, MappedWeight) or not weight.is_floating_point() or weight.itemsize >= 4:
        return weight
    if forward is nn.Linear.forward and torch.is_autocast_enabled(weight.device.type):
        return weight
    return nn.Parameter(weight.float(), requires_grad=False)


@cache
def _lightly(kind: type) -> type:
    members = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__, "runs": kind.forward}
    return type(kind.__name__, (_Lightly, kind), members)


def run_by_layer_(model: nn.Module) -> nn.Module:
    """Have each module of a network let go of its mapped weights when it has run, and get the network."""
    for module in model.modules():
        mapped = any(isinstance(weight, MappedWeight) for weight in module._parameters.values())
        if mapped and not isinstance(module, _Lightly):
            module.__class__ = _lightly(type(module))
    return model
