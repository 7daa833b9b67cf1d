"""Choices that read nothing of the activations, to compare with."""

import torch

from delayer.shrinking.look import Look
from delayer.shrinking.schedules import Chosen, schedule


@schedule("random", source="baseline")
def at_random(look: Look, most: int) -> Chosen:
    """Any."""
    order = torch.randperm(len(look.sites), generator=look.generator).tolist()
    return [look.edit(look.sites[k], "identity") for k in order[:most]], "drawn at random"


@schedule("last", source="baseline")
def last(look: Look, most: int) -> Chosen:
    """Those behind all others."""
    return [look.edit(site, "identity") for site in look.sites[::-1][:most]], "the last ones"


@schedule("magnitude", source="baseline")
def magnitude(look: Look, most: int) -> Chosen:
    """Those behind the layer whose mean absolute weight is smallest."""
    weights = dict(look.chain.model.named_parameters())
    size = {site: float(weights[site.weight].detach().abs().mean()) if site.weight else float("inf") for site in look.sites}
    chosen = sorted(look.sites, key=size.__getitem__)[:most]
    return [look.edit(site, "identity") for site in chosen], f"smallest mean weight {size[chosen[0]]:.4f}"
