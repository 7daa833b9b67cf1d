"""Which parameters are trained, by which optimiser, at which rate."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.errors import ModelError


def optimizer_for(
    trained: dict[str, nn.Parameter], kind: str, *, weight_decay: float, momentum: float, relative: bool = False
) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum; `Training` sets the rate of each step.

    relative: AdamW's rate of each tensor is a share of the tensor's root mean square as it is now, at least of 0.001.
    Source: Shazeer and Stern 2018 (Adafactor), arXiv 1804.04235, section 8. Fidelity: theirs follows the tensor as it changes.
    """
    if kind == "sgd":
        return torch.optim.SGD(trained.values(), momentum=momentum, weight_decay=weight_decay)
    # Scales and biases are not decayed, nor are diagonal maps, whose rest is one and not zero.
    if relative:
        return torch.optim.AdamW(
            [
                {
                    "params": [p],
                    "weight_decay": weight_decay * (p.ndim > 1),
                    "size": max(p.detach().square().mean().sqrt().item(), 1e-3),
                }
                for p in trained.values()
            ]
        )
    kinds = [p for p in trained.values() if p.ndim > 1], [p for p in trained.values() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for params, decay in zip(kinds, (weight_decay, 0.0), strict=True) if params]
    )


def rate_at(step: int, num_steps: int, *, peak: float, warmup: float, milestones: Sequence[int] = ()) -> float:
    """Learning rate of a step: linear to the peak over a share of all, then half a cosine towards zero.

    milestones: steps at which the rate is divided by ten, in place of the cosine.
    """
    rising = math.ceil(warmup * num_steps)
    if step < rising:
        return peak * (step + 1) / rising
    if milestones:
        return peak / 10 ** sum(step >= milestone for milestone in milestones)
    return peak * (1 + math.cos(math.pi * (step - rising) / max(num_steps - rising, 1))) / 2


@contextmanager
def trained_parameters(
    model: nn.Module, only: Collection[str] | None, *, update_norms: bool
) -> Iterator[dict[str, nn.Parameter]]:
    """Inside: training mode, gradients for the named parameters (all for None) and for no others.

    Batch norms keep their statistics, unless `update_norms` is asked for and their own scales are trained.
    Afterwards `requires_grad` and modes are what they were, and no gradient is left.
    Raises ModelError for a name that the network does not have.
    """
    named = dict(model.named_parameters())
    unknown = sorted(set(only or ()) - named.keys())
    if unknown or not named or (only is not None and not only):
        raise ModelError(
            f"The parameters to train should be some of the network's {len(named)}; "
            f"found {f'{unknown[0]!r}, which it lacks' if unknown else 'none'}. "
            "Name them as model.named_parameters() does, or train all."
        )
    flags = {parameter: parameter.requires_grad for parameter in named.values()}
    modes = {module: module.training for module in model.modules()}
    try:
        for name, parameter in named.items():
            parameter.requires_grad_(only is None or name in only)
        model.train()
        for module in model.modules():
            learns = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and not (update_norms and learns):
                module.eval()
        yield {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, training in modes.items():
            module.training = training
