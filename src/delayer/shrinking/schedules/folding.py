"""Layer Folding: every activation gets a slope that is trained towards linear; those that arrive are folded."""

import torch
from torch import Tensor, nn

from delayer.shrinking.look import Look, put_
from delayer.shrinking.schedules import Chosen, schedule

ARRIVED, PENALTY = 0.9, 0.25


class Sloped(nn.Module):
    """a · z + (1 − a) · ψ(z), the slope a trained from 0."""

    def __init__(self, activation: nn.Module, like: Tensor):
        super().__init__()
        self.activation = activation
        self.slope = nn.Parameter(torch.zeros((), device=like.device, dtype=like.dtype))

    def forward(self, z: Tensor) -> Tensor:
        """The activation mixed with the identity; its shape stays."""
        z = z.clone() if getattr(self.activation, "inplace", False) else z
        return self.slope * z + (1 - self.slope) * self.activation(z.clone())


@schedule("folding", source="Dror et al. 2021 (Layer Folding), arXiv 2106.09309")
def folding(look: Look, most: int) -> Chosen:
    """Half of a round's epochs train the slopes with the loss plus 0.25 · Σ |1 − a²|, the rest trains what was folded.

    Fidelity: the paper folds where a ≥ 0.9 after one long training. Here a round folds the largest slopes, at least one,
    so that short rounds remove what they are asked to.
    """
    model = look.chain.model
    like = next(model.parameters())
    sloped = {site: Sloped(model.get_submodule(site.path), like).train(model.training) for site in look.sites}
    for site, module in sloped.items():
        put_(model, site.path, module)
    try:
        epochs = max(1, look.options.epochs // 2)
        look.tune_(epochs, lambda: PENALTY * sum((1 - module.slope**2).abs() for module in sloped.values()))
    finally:
        for site, module in sloped.items():
            put_(model, site.path, module.activation)
    slopes = {site: float(module.slope.detach()) for site, module in sloped.items()}
    order = sorted(look.sites, key=slopes.__getitem__, reverse=True)
    arrived = [site for site in order if slopes[site] >= ARRIVED]
    chosen = (arrived or order)[:most]
    return [look.edit(site, "identity") for site in chosen], f"largest slope {slopes[chosen[0]]:.2f}"
