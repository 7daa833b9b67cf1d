"""Layers that follow one another, with sums of their values: what may become one layer, still as it stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Step:
    """One layer, or a sum of two values.

    inputs: numbers of the values that it takes; 0 is the part's input, k what the k-th step gave.
    path: of the layer, in the module that it was found in; "" for a sum, and for a shortcut's slice or padding.
    """

    inputs: tuple[int, ...]
    path: str = ""


class Part(nn.Module):
    """Runs steps in their order and gives what the last one gives: the factorised form of a merge.

    layers: one a step, None for a sum.
    """

    def __init__(self, steps: Sequence[Step], layers: Sequence[nn.Module | None]):
        super().__init__()
        self.steps = tuple(steps)
        self.layers = nn.ModuleList(layer if layer is not None else nn.Identity() for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, *place] → [batch, out, *place], through the steps in their order."""
        values = [x]
        for step, layer in zip(self.steps, self.layers, strict=True):
            given = [values[i] for i in step.inputs]
            values.append(given[0] + given[1] if len(given) == 2 else layer(given[0]))
        return values[-1]

    @property
    def paths(self) -> tuple[str, ...]:
        """Of its layers, in the module that they stand in."""
        return tuple(step.path for step in self.steps if step.path)

    @property
    def rewrites(self) -> bool:
        """Whether the forward pass that it stands in has to be written anew for a merge."""
        return any(not step.path for step in self.steps)

    @property
    def num_sums(self) -> int:
        """How many of its steps add two values."""
        return sum(len(step.inputs) == 2 for step in self.steps)


def num_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of linear layers and convolutions for one input of that shape; weights may be shapes on `meta`."""
    like = next(module.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *shape, dtype=like.dtype, device=like.device))
    return counter.get_total_flops() // 2


def in_a_row(*layers: nn.Module) -> Part:
    """Layers one behind another."""
    return Part([Step((k,), str(k)) for k in range(len(layers))], layers)


def with_shortcut(*layers: nn.Module, shortcut: nn.Module | None = None) -> Part:
    """Layers one behind another, plus their input, or what another layer makes of it."""
    steps, own = [Step((k,), str(k)) for k in range(len(layers))], list(layers)
    if shortcut is not None:
        steps.append(Step((0,), "shortcut"))
        own.append(shortcut)
    steps.append(Step((len(layers), len(own) if shortcut is not None else 0)))
    return Part(steps, [*own, None])
