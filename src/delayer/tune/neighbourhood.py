"""Which parameters of a cut network lie next to its cuts."""

from copy import deepcopy

from delayer.chain import Chain
from delayer.plan import Plan, edit_modules_


def neighbourhood(chain: Chain, plan: Plan, *, reach: int = 1) -> set[str]:
    """Names of the cut network's parameters in the stand-ins' maps and in the blocks around each cut.

    chain: of the ORIGINAL network, as the plan numbers it. The names are those of `apply(chain, plan, ...)`.
    reach: blocks before and after each span.
    Raises SpanError when a span does not fit the chain.
    """
    plan.check(chain, weights=False)
    # The edits are made on a copy, so that modules themselves show where they end up, whatever the edits do.
    copy = Chain(deepcopy(chain.model), chain.family, chain.blocks)
    edit_modules_(copy, plan.edits, None)
    spans = [span for edit in plan.edits for span in edit.spans]
    near = {copy.module(i) for i in range(chain.num_blocks) for span in spans
            if span.start - reach <= i < span.stop + reach}
    copy.compact_(plan.gone)
    left = [(path, module) for path, module in copy.model.named_modules() if module in near]
    return {f"{path}.{name}" for path, module in left for name, _ in module.named_parameters()}
