"""NEPENTHE: weights are pruned where activations switch little, until a layer's entropy is zero; then it is linear."""

import torch
from pydantic import Field
from torch import Tensor

from delayer.metrics.activations.nepenthe import nepenthe as entropy
from delayer.shrinking.look import Look
from delayer.shrinking.schedules import Chosen, schedule
from delayer.study import Record

ZERO = 1e-12


class NepentheOptions(Record):
    """How much a round prunes."""

    zeta: float = Field(default=0.25, gt=0, lt=1)
    """Share of the surviving weights that a round of NEPENTHE prunes."""


@schedule("nepenthe", source="Liao et al., TMLR 2026, arXiv 2404.16890", options=NepentheOptions)
def nepenthe(look: Look, most: int) -> Chosen:
    """One round: share the pruning budget ζ by entropy, prune the smallest magnitudes, remove what no longer switches.

    Fidelity: a layer is removed when its entropy is 0, as in the paper, and a round that finds none only prunes; under
    `fill` the lowest entropies go. The exact place of H inside the irrelevance is not confirmed; here I = H · mean |w|
    over surviving weights.
    """
    values = {site: entropy(look.stats[site.path]) for site in look.sites}
    parameters = dict(look.chain.model.named_parameters())
    layers = {site.weight: (parameters[site.weight], values[site]) for site in look.sites if site.weight}
    shares = budgets(
        {name: (alive(weight, look.masks.get(name)), h) for name, (weight, h) in layers.items()}, look.own(NepentheOptions).zeta
    )
    for name, count in shares.items():
        look.masks[name] = pruned(layers[name][0], look.masks.get(name), count)
        with torch.no_grad():
            layers[name][0].mul_(look.masks[name])
    order = sorted(look.sites, key=values.__getitem__)[:most]
    chosen = [site for site in order if look.options.fill or values[site] <= ZERO]
    return [look.edit(site, "sign") for site in chosen], (
        f"lowest entropy {values[order[0]]:.3f} bits, {sum(shares.values()):,} weights pruned"
    )


def alive(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Magnitudes of the weights that were not pruned."""
    weight = weight.detach().abs()
    return weight.flatten() if mask is None else weight[mask]


def budgets(layers: dict[str, tuple[Tensor, float]], zeta: float) -> dict[str, int]:
    """How many weights each layer loses: N = ζ · surviving weights, shared by softmax of the relevance.

    layers: surviving magnitudes and entropy of each. I = H · mean |w|, R = ΣI / I; only layers with I > 0 take part. A
    layer that cannot give its share is pruned whole, leaves, and the rest is shared anew.
    """
    given: dict[str, int] = {}
    left = sum(len(magnitudes) for magnitudes, _ in layers.values()) * zeta
    irrelevance = {name: h * float(m.mean()) for name, (m, h) in layers.items() if len(m) and h * float(m.mean()) > ZERO}
    while irrelevance and left > 0:
        total = sum(irrelevance.values())
        relevance = torch.tensor([total / i for i in irrelevance.values()], dtype=torch.float64)
        share = dict(zip(irrelevance, (left * (relevance - relevance.max()).softmax(0)).tolist(), strict=True))
        whole = [name for name in irrelevance if share[name] >= len(layers[name][0])]
        if not whole:
            return given | {name: int(count) for name, count in share.items() if count >= 1}
        for name in whole:
            given[name] = len(layers[name][0])
            left -= given[name]
            del irrelevance[name]
    return given


def pruned(weight: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """A mask that lacks the `count` smallest surviving magnitudes as well."""
    mask = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device).clone()
    size = weight.detach().abs().masked_fill(~mask, float("inf")).flatten()
    mask.view(-1)[size.argsort()[:count]] = False
    return mask
