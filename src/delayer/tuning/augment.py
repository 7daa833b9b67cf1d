"""Pictures moved a little before each step, so that few of them teach more."""

import torch
from torch import Tensor
from torch.nn import functional as F

from delayer.errors import DataError
from delayer.network.calling import Inputs


def augmented(inputs: Inputs, *, flip: bool = False, shift: int = 0) -> Inputs:
    """Pictures [n, c, h, w], each mirrored with probability one half and moved by up to `shift` pixels each way.

    What a move uncovers is filled with the picture mirrored at its edge. Drawn from torch's global random numbers, so
    that a seed decides them. Raises DataError for anything but a tensor of pictures larger than twice the shift.
    """
    if not flip and not shift:
        return inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or min(inputs.shape[2:]) <= 2 * shift:
        found = list(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise DataError(
            f"Flips and shifts move pictures [n, c, h, w] larger than twice the shift ({shift}); found {found}. "
            "Leave flip and shift out for this data."
        )
    num, _, height, width = inputs.shape
    if flip:
        mirrored = torch.rand(num).to(inputs.device) < 0.5
        inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    if shift:
        padded = F.pad(inputs, [shift] * 4, mode="reflect")
        down, right = torch.randint(2 * shift + 1, (2, num)).to(inputs.device)
        rows = (down[:, None] + torch.arange(height, device=inputs.device))[:, None, :, None]
        columns = (right[:, None] + torch.arange(width, device=inputs.device))[:, None, None, :]
        number = torch.arange(num, device=inputs.device)[:, None, None, None]
        inputs = padded[number, torch.arange(inputs.shape[1], device=inputs.device)[:, None, None], rows, columns]
    return inputs
