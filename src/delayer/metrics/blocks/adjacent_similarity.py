"""How alike each layer is to the one before it: what RedTest prunes by."""

import torch
from torch import Tensor

from delayer.metrics.blocks import Layout, metric
from delayer.metrics.blocks.cka import FEWEST
from delayer.metrics.blocks.msrs import SOURCE, batch_similarities, layer_hsic
from delayer.observing.stats import Hsic


@metric(
    title="Adjacent similarity",
    shape="blocks",
    redundant="high",
    unit="unbiased CKA",
    source=SOURCE,
    stat=layer_hsic,
    fewest=FEWEST,
)
def adjacent_similarity(stat: Hsic, *, layout: Layout) -> Tensor:
    """a_k = s_{k,k+1} [blocks], averaged over batches of 256 and charged to the later layer.

    NaN for a first layer, which has none before it, and for blocks that are no layers (activations, norms).
    Fidelity: the paper averages over ten batches; here it is as many as the fit split has.
    """
    values = torch.full((len(layout.outlets),), torch.nan, dtype=torch.float64)
    adjacent = batch_similarities(stat).diagonal(1, -2, -1).mean(0)
    block_of = {outlet: block for block, outlet in enumerate(layout.outlets)}
    for place, value in zip(layout.layers[1:], adjacent, strict=True):
        if isinstance(place, int):  # a path is the layer before the first block
            values[block_of[place]] = value
    return values
