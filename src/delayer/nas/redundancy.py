"""How redundant the layers of a network are: MSRS on batches of validation data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from delayer.metrics.blocks.msrs import batch_similarities, msrs_of
from delayer.network.calling import evaluating
from delayer.network.hooks import hooked
from delayer.observing.rows import Rows
from delayer.observing.stats import Hsic


def redundancy(
    model: nn.Module,
    layers: Sequence[nn.Module],
    batches: Sequence,
    *,
    batch_size: int = 256,
    max_batches: int = 10,
    tau: float = 0.8,
    beta: float = 100.0,
) -> tuple[float, float]:
    """MSRS of the outputs of some layers, and its share of L(L − 1)/2: the mean over batches of `batch_size` samples.

    Outputs [n, channels, h, w] are averaged over space, [n, tokens, width] over tokens; unbiased CKA.
    A layer whose output is constant resembles no other. With less than 4 samples or one layer the score is 0.
    Source: Lu et al. 2024 (RedTest), arXiv 2411.10507. Fidelity: on validation data, where the paper takes test data.
    """
    stat = Hsic(range(len(layers)), Rows("mean"), batch_size=batch_size)
    pooled: dict[int | str, Tensor] = {}

    def watch(index: int):
        def hook(module, args, output: Tensor) -> None:
            flat = output.flatten(2).mean(2) if output.ndim == 4 else output.mean(1) if output.ndim == 3 else output
            pooled[index] = flat.detach().double().cpu()

        return hook

    device = next(model.parameters()).device
    with evaluating(model), hooked(after=[(layer, watch(i)) for i, layer in enumerate(layers)]):
        for batch in batches:
            if batch.start >= batch_size * max_batches:
                break
            model(batch.inputs.to(device))
            stat.update(pooled, torch.arange(batch.start, batch.start + len(batch)))
    num_pairs = len(layers) * (len(layers) - 1) // 2
    if not num_pairs or stat.num_rows < 4:
        return 0.0, 0.0
    score = msrs_of(batch_similarities(stat)[:max_batches], tau=tau, beta=beta).mean().item()
    return score, score / num_pairs
