"""In which precision a network multiplies: its weights and its stream stay as they are, products may be taken in bfloat16.

By torch's autocast around a pass, so that nothing about the network changes, what it hands from block to block keeps its
precision, and what looks on (`hooked`) computes in its own.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from delayer.errors import ModelError
from delayer.network.notes import note_

Precision = Literal["float32", "bfloat16"]
WORTHWHILE = 1.5
"""bfloat16 is used by itself where it multiplies so many times as fast."""


def multiply_in_(model: nn.Module, precision: Precision) -> None:
    """From now on passes over data take the network's products in this precision; copies of it go on so, saved ones do not.

    Raises ModelError for another name.
    """
    if precision not in ("float32", "bfloat16"):
        raise ModelError(f"Products are taken in float32 or bfloat16, not in {precision!r}.")
    note_(model, delayer_multiplies=precision)


def precision_of(model: Any) -> Precision:
    """The precision that passes over data take a network's products in."""
    return getattr(model, "delayer_multiplies", "float32")


def multiplying(model: Any) -> AbstractContextManager[Any]:
    """What a pass over data is made in. What is proven, timed or exported runs in the precision of its weights instead."""
    if precision_of(model) == "float32":
        return nullcontext()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.autocast(device.type, torch.bfloat16)


def own_precision() -> AbstractContextManager[Any]:
    """What a function that looks on while a network runs is called in: without the network's autocast."""
    on = next((kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.is_autocast_enabled(kind)), None)
    return torch.autocast(on, enabled=False) if on else nullcontext()


def faster_precision(device: torch.device) -> tuple[Precision, float]:
    """The precision that this machine multiplies fastest in, and how many times as fast bfloat16 was; measured once."""
    ratio = _measured(str(device))
    return ("bfloat16" if ratio >= WORTHWHILE else "float32"), ratio


@cache
def _measured(device: str, width: int = 768, repeats: int = 5) -> float:
    """The least time of a product in float32, over that in bfloat16."""
    there = torch.device(device)
    took = {}
    for dtype in (torch.float32, torch.bfloat16):
        try:
            x = torch.ones(width, width, device=there, dtype=dtype)
            times = []
            for _ in range(repeats + 1):
                _wait(there)
                began = time.perf_counter()
                for _ in range(4):
                    torch.mm(x, x)
                _wait(there)
                times.append(time.perf_counter() - began)
            took[dtype] = min(times[1:])
        except RuntimeError:  # a device without such products
            return 0.0
    return took[torch.float32] / took[torch.bfloat16]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
