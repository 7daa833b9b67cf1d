"""RedTest's layer pruning: drop the layers that are most like the one before them."""

from collections.abc import Collection, Sequence
from itertools import groupby

from delayer.edits import Edit
from delayer.edits.drop_span import DropSpan
from delayer.errors import BudgetError
from delayer.network.chain import Chain
from delayer.network.layers import Layer, layers_of
from delayer.search.budget import Budget
from delayer.search.methods import joined, method, num_asked
from delayer.study import Score


def kept_layers(
    similarity: Sequence[float | None], stages: Sequence[Sequence[int]], num: int, fixed: Collection[int] = ()
) -> tuple[int, ...]:
    """The `num` layers that stay: those least like the layer before them, over the whole network, in one shot.

    similarity: a_k of each layer, None for one that has none before it and so stays. stages: the layers of each
    stage, which keeps at least one. fixed: layers that cannot go. Equal similarities keep the earlier layer.
    Raises BudgetError when more than `num` layers have to stay.
    """
    stays = {k for k, value in enumerate(similarity) if value is None} | set(fixed)
    for stage in stages:
        if not stays.intersection(stage):
            stays.add(min(stage, key=lambda k: (similarity[k], k)))
    if len(stays) > num:
        most = len(similarity) - len(stays)
        raise BudgetError(
            f"Keeping {num} of {len(similarity)} layers cannot be met: {len(stays)} have to stay, because "
            "they change the shape, have no layer before them or are the last of their stage. "
            f"Remove at most {most}.",
            most=most,
        )
    others = sorted(set(range(len(similarity))) - stays, key=lambda k: (similarity[k], k))
    return tuple(sorted(stays.union(others[: num - len(stays)])))


def check_redtest(chain: Chain, budget: Budget) -> None:
    """Raises BudgetError where there are too few layers."""
    num, found = num_asked(budget, "RedTest"), len(_layers(chain))
    if found < 2:
        raise BudgetError(
            f"RedTest needs at least two layers to compare; this network has {found} ({chain!r}). Name its layers with --blocks."
        )
    if num >= found:
        raise BudgetError(
            f"Removing {budget} cannot be met: this network has {found} layers ({chain!r}), "
            "and each stage keeps one. Ask for less.",
            most=found - 1,
        )


@method(
    "redtest",
    title="RedTest",
    source="Lu et al. 2024, arXiv 2411.10507",
    metric="adjacent_similarity",
    num_samples=10 * 256,
    operator="drop",
    check=check_redtest,
)
def redtest_spans(chain: Chain, similarity: Score, budget: Budget) -> tuple[Edit, ...]:
    """The layers to drop for RedTest as published; what is left keeps its weights, and wants fine-tuning.

    A stage is a run of layers of one width. A bare convolution or linear layer goes with the norm and the activation
    behind it.
    Fidelity: a block that changes the shape always stays and counts among those kept (in the published cuts that give
    their vector it is among the smallest anyway), and so does a first layer with none before it.
    Source: Lu et al. 2024 (RedTest), arXiv 2411.10507.
    """
    check_redtest(chain, budget)
    layers, num = _layers(chain), int(budget.amount)
    if similarity.num_samples < 4:
        raise BudgetError(
            f"RedTest compares layers on batches of at least 4 samples; the fit split has "
            f"{similarity.num_samples}. Give more data (--num-fit)."
        )
    blocks = [block for block, _ in layers]
    units = [_unit(chain, blocks, k) for k in range(len(layers))]
    stages = [[k for k, _ in run] for _, run in groupby(enumerate(layers), key=lambda item: item[1][1].width)]
    values = [similarity.values[block] for block in blocks]
    kept = kept_layers(values, stages, len(layers) - num, fixed=[k for k, unit in enumerate(units) if not unit])
    gone = [block for k, unit in enumerate(units) if k not in kept for block in unit]
    return tuple(DropSpan(start=start, stop=stop) for start, stop in joined(chain, gone))


def _layers(chain: Chain) -> list[tuple[int, Layer]]:
    """The layers in blocks, each with its block."""
    return [(layer.block, layer) for layer in layers_of(chain) if layer.block is not None]


def _unit(chain: Chain, blocks: Sequence[int], k: int) -> list[int]:
    """The blocks that go with a layer: none where it changes the shape, and what follows a bare one up to the next."""
    first, bare = blocks[k], not any(chain.module(blocks[k]).children())
    last = blocks[k + 1] if bare and k + 1 < len(blocks) else chain.num_blocks if bare else first + 1
    found = []
    for block in range(first, last):
        joins = not found or chain.blocks[block - 1].outlet == chain.blocks[block].inlet
        if not (chain.blocks[block].removable and joins):
            break
        found.append(block)
    return found
