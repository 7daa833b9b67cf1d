"""Along which axis of a hidden state the samples of a batch lie."""

from collections.abc import Iterator

from torch import nn

from delayer.families._places import Visit
from delayer.families._probe import probe
from delayer.network.calling import Inputs, first_tensor, with_batch

ENOUGH = 2
"""Axes of the batch's size from which on the sizes of one batch no longer tell."""


def sample_axes(model: nn.Module, visits: list[Visit], example: Inputs, features: int) -> dict[str, int]:
    """For each block the axis of the batch in its hidden state: 0 but for networks that put positions first, as XLNet does.

    Where more than one axis has the size of the batch, a second pass with another number of samples tells. A hidden state
    whose first axis holds several rows of each sample, as windows or patches beside the batch, has its samples there too.
    """
    num = len(first_tensor(example))
    found = {visit.path: list(_axes(visit.before.shape, num, features)) for visit in visits}
    if any(len(axes) >= ENOUGH for axes in found.values()):
        again = {visit.path: visit for visit in probe(model, [visit.path for visit in visits], with_batch(example, num + 1))}
        for path, axes in found.items():
            there = again[path].before.shape
            found[path] = [axis for axis in axes if axis < len(there) and there[axis] == num + 1]
    return {path: axes[0] if axes else 0 for path, axes in found.items()}


def _axes(shape: tuple[int, ...], num: int, features: int) -> Iterator[int]:
    """The axes that may be the batch's; the first one alone where features lie behind it, as in pictures."""
    for axis in range(len(shape) if features == -1 else 1):
        if shape[axis] == num and axis != len(shape) - 1:
            yield axis
