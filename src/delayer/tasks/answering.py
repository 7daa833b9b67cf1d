"""One pass in which a network answers a split."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from delayer.network.calling import call, first_tensor, output_of, ready, seeded
from delayer.network.precision import multiplying
from delayer.tasks.gathering import Gathering
from delayer.tasks.outputs import Outputs
from delayer.tasks.splits import Batch, Split


def predictions(
    model: nn.Module,
    split: Split,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    around: Callable[[Batch], AbstractContextManager[None]] | None = None,
    exact: bool = False,
) -> Outputs:
    """What a network answers on a split, in one pass. Others are compared with what the original answers.

    device: where to run; by default where the model is. Its place and mode are restored.
    progress: called with (batches done, batches in all). around: what is entered for each batch, such as a `Replay`'s record.
    exact: in the precision of the weights, whatever was said of the network (`multiply_in_`).
    Raises NotFiniteError naming the first batch whose output holds NaN or infinity.
    """
    gather = Gathering(split)
    with ready(model, torch.empty(0), device) as spot:
        for number, batch in enumerate(split):
            batch = batch.to(first_tensor(spot).device)
            with seeded(batch.start), nullcontext() if exact else multiplying(model), around(batch) if around else nullcontext():
                output = output_of(call(model, batch.inputs))
            gather.add(output, batch, number)
            if progress:
                progress(number + 1, len(split))
    return gather.outputs()
