"""What a network does, found by its answer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from delayer.calling import Inputs, call, output_of, ready
from delayer.errors import DataError
from delayer.tasks.options import Kind


def kind_of(model: nn.Module, inputs: Inputs) -> tuple[Kind, int]:
    """What a network does, and how many outputs it has, by its answer to a few samples.

    Logits [n, classes] mean classification, logits [n, positions, vocabulary] of a network that writes text
    mean a language model, all else is an embedding. Raises DataError when the network cannot read the inputs.
    """
    try:
        with ready(model, inputs) as there:
            raw = call(model, there)
            output = output_of(raw)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"The network cannot read the data, {_shapes(inputs)}: {reason}. "
            "Check that they suit it, or set --size, --channels or --max-length."
        ) from error
    reads_text = token_ids(inputs) is not None
    headless = getattr(model, "num_classes", None) == 0  # timm's word for features instead of logits
    if output.ndim == 2 and not headless:
        return ("text-classification" if reads_text else "image-classification"), max(2, output.shape[1])
    hidden = getattr(raw, "last_hidden_state", None) is output
    causal = reads_text and output.ndim == 3 and not hidden and writes_text(model)
    return ("causal-lm" if causal else "embedding"), output.shape[-1]


def writes_text(model: nn.Module) -> bool:
    """Whether a network predicts the next token; an own one that does not say so is taken to."""
    # Masked language models have logits for each position too; can_generate tells them apart.
    can_generate = getattr(model, "can_generate", None)
    return bool(can_generate()) if callable(can_generate) else True


def token_ids(inputs: Inputs) -> Tensor | None:
    """[n, positions] token ids among the inputs, None where there are none."""
    if isinstance(inputs, Mapping):
        return inputs.get("input_ids")
    return inputs if inputs.ndim == 2 and not inputs.is_floating_point() else None


def _shapes(inputs: Inputs) -> str:
    if isinstance(inputs, Tensor):
        return f"a tensor {list(inputs.shape)}"
    return ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
