"""The short training that stands for a long one, and what it tells of a candidate."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delayer.errors import NotFiniteError
from delayer.measure import num_macs, num_params
from delayer.nas.data import NasData
from delayer.nas.options import ProxyOptions
from delayer.nas.redundancy import redundancy
from delayer.nas.space import Space
from delayer.network.calling import first_tensor
from delayer.tasks import evaluate

PRIME = 1_000_003
"""Keeps the random numbers of one seed's trials apart from those of the next seed's."""


def train_(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    options: ProxyOptions,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    beat: Callable[[], None] | None = None,
) -> nn.Module:
    """Train a network in place on images [n, channels, h, w] and labels [n], and get it back in evaluation mode.

    SGD with Nesterov momentum, the rate from its start to 0 along a cosine over all steps, cross-entropy.
    beat: called after each step. Raises NotFiniteError when the loss is not finite.
    Source: the 12-epoch recipe of Dong & Yang 2020, arXiv 2001.00326, scaled to `epochs`.
    Fidelity: the rate falls at every step; shifts are by up to an eighth of the image's size, theirs by 4 pixels of 32.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
        weight_decay=options.weight_decay,
    )
    generator = torch.Generator().manual_seed(seed)
    num_batches = max(len(x) // batch_size, 1)  # a last, smaller batch would upset the norms
    num_steps, step = epochs * num_batches, 0
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for rows in order[: num_batches * batch_size].split(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * (1 + math.cos(math.pi * step / num_steps)) / 2
            images = augmented(x[rows], generator) if options.augment else x[rows]
            loss = F.cross_entropy(model(images.to(device)), y[rows].to(device))
            if not torch.isfinite(loss):
                raise NotFiniteError(f"The loss was not finite in step {step + 1} of {num_steps}. Lower --learning-rate.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            if beat:
                beat()
    return model.eval()


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images [n, channels, h, w], each mirrored or not, and shifted by up to an eighth of its size before zeros."""
    n, _, height, width = x.shape
    mirrored = torch.rand(n, generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    most = max(height // 8, 1), max(width // 8, 1)
    padded = F.pad(x, (most[1], most[1], most[0], most[0]))
    down, right = (torch.randint(0, 2 * m + 1, (n, 1), generator=generator) for m in most)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def assess(
    space: Space,
    candidate: str,
    data: NasData,
    fit: tuple[Tensor, Tensor] | None,
    options: ProxyOptions,
    *,
    seed: int,
    device: str = "cpu",
    epochs: int | None = None,
) -> tuple[dict[str, Any], nn.Module]:
    """A candidate's figures, as fields of a NasTrial, and its network after the short training.

    A dead candidate is not trained: its accuracy is chance, and no layer of it says anything.
    seed: decides the first weights, the order of the images and how they are changed.
    """
    begun, first = time.monotonic(), first_tensor(data.task.batches("validation")[0].inputs)[:1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = data.build(space, candidate).to(device)
        facts: dict[str, Any] = {"params": num_params(model), "macs": num_macs(model, first)}
        if space.is_dead(candidate):
            return facts | {"state": "dead", "accuracy": 100 / data.num_classes}, model.eval()
        x, y = fit if fit is not None else data.fit(options.share, seed)
        train_(model, x, y, options, epochs=epochs or options.epochs, batch_size=data.task.batches("fit").batch_size, seed=seed)
    score, share = redundancy(
        model,
        space.layers(model),
        data.task.batches("validation"),
        tau=options.tau,
        beta=options.beta,
        batch_size=options.score_batch_size,
        max_batches=options.score_batches,
    )
    grade = evaluate(model, data.task, "validation", device=device)
    return facts | {
        "state": "trained",
        "accuracy": grade.value,
        "msrs": score,
        "msrs_share": share,
        "seconds": time.monotonic() - begun,
    }, model
