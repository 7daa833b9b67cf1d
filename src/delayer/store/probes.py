"""What a reload proof runs besides the inputs that it is given: tokens that no window holds, and text that is generated."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from delayer.libraries import first_line
from delayer.network.calling import Inputs, evaluating, seeded
from delayer.network.notes import config_of

NUM_WRITTEN = 8
MOST_TOKENS = 2048


def beyond_windows(model: nn.Module, inputs: Inputs) -> dict[str, Tensor] | None:
    """One row of tokens, longer than the widest window that the network's configuration names; None where there is none.

    On short inputs a block that sees all and one that sees a window say the same.
    """
    config = config_of(model)
    if isinstance(inputs, Tensor) or set(inputs) - {"input_ids", "attention_mask"} or not hasattr(config, "to_dict"):
        return None
    stated = config.to_dict()
    windows = [value for value in _windows(stated) if value > 1]
    longest = stated.get("max_position_embeddings") or MOST_TOKENS
    num = min(2 * max(windows, default=0) + 2, longest, MOST_TOKENS)
    if not windows or num <= max(inputs["input_ids"].shape[1], min(windows)):
        return None
    ids = torch.randint(0, stated["vocab_size"], (1, num), generator=torch.Generator().manual_seed(0))
    ids = ids.to(inputs["input_ids"])
    return {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if "attention_mask" in inputs else {})


def _windows(config: Mapping[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _windows(value)
        elif re.search(r"window|chunk|local", str(key)) and isinstance(value, int) and not isinstance(value, bool):
            yield value


def continuation(model: nn.Module, inputs: Inputs) -> Tensor | None:
    """The tokens that a network which generates writes after the inputs, greedily; None where it does not generate."""
    written = written_by(model, inputs)
    return written if isinstance(written, Tensor) else None


def written_by(model: nn.Module, inputs: Inputs) -> Tensor | str:
    """What a network writes after the inputs, or why it writes nothing."""
    network: Any = model
    if not hasattr(model, "generate") or not network.can_generate():
        return "it does not generate"
    given = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    prompt = {name: value for name, value in given.items() if not name.startswith("decoder_") and name != "labels"}
    try:
        with evaluating(model), seeded():
            return network.generate(**prompt, max_new_tokens=NUM_WRITTEN, min_new_tokens=NUM_WRITTEN, do_sample=False)
    except Exception as error:  # a network that generates from other inputs than these, or cannot
        return f"{type(error).__name__}: {first_line(error)}"
