"""Block influence over all tokens: what several methods choose blocks by."""

from collections.abc import Callable, Sequence
from typing import Any

from delayer.network.chain import Chain
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows
from delayer.observing.stats import Geometry


def token_influence(
    chain: Chain,
    batches: Sequence[Any],
    blocks: Sequence[int],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, float]:
    """1 − mean cos(input, output) of each of these blocks, over every real token (or pixel) of all batches, in one pass.

    Source: Men et al. 2024 (ShortGPT), arXiv 2403.03853.
    """
    ends = {block: (chain.blocks[block].inlet, chain.blocks[block].outlet) for block in blocks}
    stat = Geometry(dict.fromkeys(ends.values()), Rows("each"), chain.num_points)
    observe(chain, batches, [stat], seed=seed, progress=progress)
    cosine = stat.cosine
    return {block: 1 - float(cosine[end]) for block, end in ends.items()}


def least_influential(influence: dict[int, float], num: int) -> list[int]:
    """The blocks of lowest influence, the earlier of equal ones first."""
    return sorted(influence, key=lambda block: (influence[block], block))[:num]
