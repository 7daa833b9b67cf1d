"""How large features are on average, sample by sample: what magnitudes are matched by."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from delayer.errors import DataError, NotFiniteError
from delayer.network.calling import call, evaluating, seeded
from delayer.network.chain import Chain
from delayer.network.precision import multiplying
from delayer.observing.one_pass import device_of, watching
from delayer.observing.rows import positions


def mean_sizes(chain: Chain, points: Iterable[int], batches: Sequence[Any], *, turn: Tensor | None = None) -> dict[int, Tensor]:
    """mean |x| of each feature over each sample's real positions, [samples, width] in float64, at some points.

    turn: features are multiplied by this matrix [width, width] first. Each pass ends behind the last point.
    Raises DataError where there is nothing to read, NotFiniteError.
    """
    found: dict[int, list[Tensor]] = {point: [] for point in points}
    turn = None if turn is None else turn.float().to(device_of(chain.model))
    axes = {point: block.samples for block in chain.blocks for point in (block.inlet, block.outlet)}
    for batch in batches:
        batch = batch.to(device_of(chain.model))

        def see(point: Any, hidden: Tensor, batch=batch) -> None:
            states = positions(hidden, chain.axis, samples=axes[point], num=len(batch)).float()
            states = states if turn is None else states @ turn
            mask = batch.mask_for(states.shape[1])
            real = torch.ones(states.shape[:2], device=states.device) if mask is None else mask.to(states.device).bool()
            # Filled, not multiplied: some attentions leave NaN where a token is padding.
            total = states.abs().masked_fill(real[..., None] == 0, 0).sum(1, dtype=torch.float64)
            found[point].append((total / real.sum(1).clamp_min(1)[:, None])[real.sum(1) > 0].cpu())

        with evaluating(chain.model), seeded(batch.start), watching(chain, found, see), multiplying(chain.model):
            call(chain.model, batch.inputs)
    if not all(found.values()):
        raise DataError("The data set is empty, or a block is skipped in evaluation mode, so no features can be read.")
    sizes = {point: torch.cat(parts) for point, parts in found.items()}
    if not all(torch.isfinite(size).all() for size in sizes.values()):
        raise NotFiniteError("NaN or infinity in the features whose sizes are compared. Check the weights and the data.")
    return sizes
