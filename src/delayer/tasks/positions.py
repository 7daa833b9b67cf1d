"""How many positions a network of texts has, and whether it can go beyond."""

import re
from typing import Any

from torch import nn

from delayer.errors import DataError

STATED = ("max_position_embeddings", "n_positions", "max_seq_len")


def stated_positions(model: nn.Module) -> int | None:
    """How many positions a network's configuration states, its text part's where it has several; None where none."""
    config: Any = getattr(model, "config", None)
    for one in (config, getattr(config, "text_config", None)):
        for name in STATED:
            if isinstance(most := getattr(one, name, None), int) and most > 0:
                return most
    return None


def table_positions(model: nn.Module) -> int | None:
    """How many positions there are rows for, in the smallest table of them; None where positions are computed."""
    found = []
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and re.search(r"^wpe$|pos", name) and not re.search(r"rel|bias", name):
            taken = 0 if module.padding_idx is None else module.padding_idx + 1  # RoBERTa counts from behind the padding
            found.append(module.num_embeddings - taken)
    stated = stated_positions(model)
    # Some tables have rows before the first position (OPT, BART).
    return min([*found, *([stated] if stated else [])]) if found else None


def check_length(model: nn.Module, asked: int) -> str:
    """What is to be known of texts of so many tokens; "" for nothing.

    Raises DataError where the network has fewer positions.
    """
    name = type(model).__name__
    if (rows := table_positions(model)) is not None and asked > rows:
        raise DataError(f"--max-length {asked} is more than the {rows} positions that {name} has. Ask for {rows} at most.")
    if (stated := stated_positions(model)) is not None and asked > stated:
        return (
            f"--max-length {asked} is more than the {stated} positions that {name} was made for; it computes those further on, "
            "which nobody trained, and its grades are of that, too."
        )
    return ""
