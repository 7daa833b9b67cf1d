"""How fast a network writes text beside another: tokens one by one, with the cache of what went before."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from delayer.measure.timing import latency
from delayer.network.calling import Inputs, evaluating, with_batch
from delayer.study import LatencyInfo

NUM_READ, NUM_WRITTEN = 32, 32
"""Tokens of the prompt, and tokens that are written after it."""


def can_write(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a network generates from these inputs: a decoder of transformers that is given token numbers."""
    network: Any = model
    return (
        not isinstance(inputs, Tensor) and "input_ids" in inputs and hasattr(model, "generate") and bool(network.can_generate())
    )


def compare_writing(
    original: nn.Module,
    cut: nn.Module,
    inputs: Inputs,
    batch_sizes: Sequence[int] = (1, 8),
    *,
    seconds: float = 3.0,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> list[LatencyInfo]:
    """A paired comparison, as by `latency`, of the time that both take to write 32 tokens after 32, for each batch size.

    The same number of tokens whatever the networks would say, greedily, with their caches.
    inputs: a dict with "input_ids" [n, tokens], whose first tokens are the prompt.
    """
    assert not isinstance(inputs, Tensor)
    ids = inputs["input_ids"][:, :NUM_READ]
    found = []
    for size in batch_sizes:
        prompt = with_batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, size)
        models = {"original": _Writer(original), "cut": _Writer(cut)}
        one = latency(models, prompt, seconds=seconds, device=device, warmup=1, seed=seed, engine="torch")["cut"]
        found.append(one.model_copy(update={"engine": f"torch, writing {NUM_WRITTEN} tokens", "dtype": _dtype(original)}))
    return found


class _Writer:
    """A network whose answer is what it writes."""

    def __init__(self, model: nn.Module):
        self.model: Any = model

    def __call__(self, **prompt: Tensor) -> Tensor:
        there = {name: value.to(next(self.model.parameters()).device) for name, value in prompt.items()}
        with evaluating(self.model):
            return self.model.generate(**there, min_new_tokens=NUM_WRITTEN, max_new_tokens=NUM_WRITTEN, do_sample=False)


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
