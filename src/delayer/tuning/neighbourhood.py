"""Where a cut network's parts are, and what they stand for: the parameters around its cuts, the hidden states it shares."""

from torch import nn

from delayer.cutting import Plan, edit_modules_
from delayer.network.chain import Chain


def neighbourhood(chain: Chain, plan: Plan, *, reach: int = 1) -> set[str]:
    """Names of the cut network's parameters in the stand-ins' maps and in the blocks around each cut.

    chain: of the ORIGINAL network, as the plan numbers it. The names are those of `apply(chain, plan, ...)`.
    reach: blocks before and after each span.
    Raises SpanError when a span does not fit the chain.
    """
    copy = _cut(chain, plan)
    spans = [span for edit in plan.edits for span in edit.spans]
    near = {copy.module(i) for i in range(chain.num_blocks) for span in spans if span.start - reach <= i < span.stop + reach}
    return {
        f"{path}.{name}" for module, path in _paths(copy, plan).items() if module in near for name, _ in module.named_parameters()
    }


def counterparts(chain: Chain, plan: Plan) -> dict[str, str]:
    """By path in the cut network: the original's block behind which the hidden state should be the same.

    The path is of a block or of what stands for some. Where blocks are gone right behind it, that is the last of them.
    chain: of the ORIGINAL network, as the plan numbers it. Raises SpanError when a span does not fit the chain.
    """
    copy, gone = _cut(chain, plan), plan.gone
    stands = {copy.module(i): chain.blocks[chain.reach(i, gone)].path for i in range(chain.num_blocks) if i not in gone}
    return {path: stands[module] for module, path in _paths(copy, plan).items() if module in stands}


def _cut(chain: Chain, plan: Plan) -> Chain:
    """A copy with the edits' shapes in their places, so that modules themselves show where they end up, whatever edits do."""
    plan.check(chain, weights=False)
    copy = chain.copy()
    edit_modules_(copy, plan.edits, None)
    return copy


def _paths(copy: Chain, plan: Plan) -> dict[nn.Module, str]:
    """Where each module of the copy is once removed blocks have left their lists; the copy's numbers are void afterwards."""
    copy.compact_(plan.gone)
    return {module: path for path, module in copy.model.named_modules()}
