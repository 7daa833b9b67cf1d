"""Healing: one pass of distillation over a few tokens, after closed-form repair; no label is read."""

from delayer.errors import BudgetError
from delayer.tuning.fine_tuning import TuneOptions

STEP_TOKENS = 1024
"""Tokens of a step: few tokens are better spent on more steps than on quieter ones."""
RATE = 3e-4


def healing(num_tokens: int) -> TuneOptions:
    """How a decoder is healed with so many tokens: every weight, the original's answers as the aim, one pass."""
    return TuneOptions(
        epochs=1, learning_rate=RATE, label_weight=0.0, weight_decay=0.0, tokens=num_tokens, step_tokens=STEP_TOKENS
    )


def num_tokens_of(text: str) -> int:
    """A number of tokens such as 50000, 50k or 1.5M. Raises BudgetError for anything else."""
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in ("k", "m") else (text, "")
    try:
        found = int(float(number) * {"": 1, "k": 1_000, "m": 1_000_000}[unit])
    except (ValueError, OverflowError):
        found = 0
    if found < 1:
        raise BudgetError(f"{text!r} is no number of tokens. Write such as 50k, 200000 or 1M.")
    return found
