"""What a search on a network whose weights stay in their files takes: memory, readings of the weights, and products.

An estimate from shapes alone, so that it can be made of a network on the device "meta": of each stage the largest things that it
holds at a time. What importing takes comes on top.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from torch import nn

from delayer.search.replay import LARGEST
from delayer.tasks.gathering import KEPT_BYTES

BATCH_TOKENS = 4096
REPLAYED = 16
"""Of weights that stay in their files, what their blocks gave may take this part in memory."""
RIDGES = 4
"""How many ridges a layer is solved for until the least error lies behind."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes and products; each stage's bytes are what it holds at a time, besides `resting`, which stays throughout.

    reads: how often all weights are read from their files. products: multiply-adds in the precision of passes; fits: in float64.
    """

    weights: int
    block: int
    resting: int
    opening: int
    scoring: int
    grading: int
    repair: int
    reads: int
    products: int
    fits: int

    @property
    def most(self) -> int:
        """Bytes at the stage that takes most."""
        return self.resting + max(self.opening, self.scoring, self.grading, self.repair)

    def seconds(self, *, products: float, fits: float) -> float:
        """About how long it takes. products, fits: multiply-adds a second."""
        return self.products / products + self.fits / fits

    @property
    def line(self) -> str:
        """What people should know, in one line."""
        return (
            f"Weights stay in their files ({self.weights / GIB:.2f} GiB, a block {self.block / GIB:.3f}) and are read about "
            f"{self.reads} times; besides what importing takes, about {self.most / GIB:.2f} GiB of memory are needed at a time "
            f"(scoring {self.scoring / GIB:.2f}, grading {self.grading / GIB:.2f}, repair {self.repair / GIB:.2f}, kept "
            f"throughout {self.resting / GIB:.2f}), and {(self.products + self.fits) / 1e12:.1f} T multiply-adds."
        )


def footprint(
    model: nn.Module, blocks: Sequence[nn.Module], *, fit_tokens: int, validation_tokens: int, repairs: int = 1
) -> Footprint:
    """What scoring, one reference, repairs and saving take. blocks: modules of the network.

    repairs: how often a cut is repaired; a search repairs each set of blocks that it judges.
    """
    largest = max(blocks, key=_bytes)
    layers = [module for module in largest.modules() if isinstance(module, nn.Linear)]
    last = max(layers, key=lambda layer: layer.in_features)
    wide, width = last.in_features, last.out_features
    inside = {id(module) for block in blocks for module in block.modules()}
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    words = max((head.out_features for head in heads), default=0)
    params = sum(p.numel() for block in blocks for p in block.parameters())
    head = words * width
    batch = min(fit_tokens, BATCH_TOKENS)
    judged = min(validation_tokens, BATCH_TOKENS)
    weights = _bytes(model)
    kept = min(2 * KEPT_BYTES, 4 * validation_tokens * words)
    replayed = min(LARGEST, weights // REPLAYED, 4 * validation_tokens * width * len(blocks))
    if fit_tokens <= wide:  # rows are kept (`fitting.few_rows`)
        repair = fit_tokens * (2 * wide + 28 * width + 24 * fit_tokens) + 16 * wide * width
        solving = fit_tokens**2 * (wide + RIDGES * (fit_tokens // 6 + width)) + 2 * fit_tokens * wide * width
    else:
        repair = 8 * wide * (7 * wide + 6 * width)
        solving = wide**2 * (fit_tokens // 2 + RIDGES * (wide // 6 + 2 * width))
    return Footprint(
        weights=weights,
        block=_bytes(largest),
        resting=kept + replayed + 8 * fit_tokens * width,
        opening=4 * head + 4 * judged * words // 4,
        scoring=4 * batch * width * (len(blocks) + 1) + 2**28,
        grading=judged * words * 6,
        repair=repair + 16 * batch * (wide + width),
        reads=6 + ceil(fit_tokens / BATCH_TOKENS) * (1 + 3 * repairs) + ceil(validation_tokens / BATCH_TOKENS) * (1 + repairs),
        products=params * (fit_tokens * (1 + 3 * repairs) + validation_tokens * (1 + repairs))
        + head * validation_tokens * (1 + repairs),
        fits=solving * len(blocks) * repairs,
    )


def _bytes(module: nn.Module) -> int:
    return sum(weight.nbytes for weight in module.parameters())
