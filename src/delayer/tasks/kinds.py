"""What a network does, found by its answer, by what it says of itself and by the labels."""

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from delayer.errors import DataError
from delayer.network.calling import Inputs, call, output_of, ready, seeded
from delayer.network.hooks import hooked
from delayer.tasks.options import Kind

NAMED_CLASSES = re.compile(r"classif|class|logit|\bcls\b", re.I)
NAMED_NUMBERS = re.compile(r"regress|key_?point|landmark|box|pose|depth(?!_?wise)|coord|joint|heat_?map|offset|\breg\b", re.I)
"""Names of a last layer that say what its outputs are."""


class Does(NamedTuple):
    """What a network does, how many outputs it has, and what the user should know of how that was found."""

    kind: Kind
    num_outputs: int
    notes: tuple[str, ...] = ()


def kind_of(model: nn.Module, inputs: Inputs, labels: Tensor | None = None) -> Does:
    """What a network does, by its answer to a few samples.

    Answers [n, outputs] are logits of classes or plain numbers (regression). In this order, the first that speaks decides:
    `problem_type` of the configuration; labels (class numbers [n] in whole numbers, or targets in floats); a single output,
    which without labels is a number; a class or a last layer that names its work; probabilities; else classes are assumed,
    and a note says so. Logits [n, positions, vocabulary] of a network that writes text mean a language model, or seq2seq where
    it has a decoder's inputs; a last hidden state, a network without a head and other answers to text mean an embedding; all
    else (key points [n, k, 2], maps [n, c, h, w]) is regression. Raises DataError when the network cannot read the inputs.
    """
    raw, output, path = _answer(model, inputs)
    reads_text = token_ids(inputs) is not None
    headless = getattr(model, "num_classes", None) == 0  # timm's word for features instead of logits
    hidden = raw.get("last_hidden_state") if isinstance(raw, Mapping) else getattr(raw, "last_hidden_state", None)
    if headless or hidden is output:
        return Does("embedding", output.shape[-1])
    if output.ndim < 3:
        return _of_numbers(model, output if output.ndim == 2 else output[:, None], labels, path, reads_text)
    if reads_text and output.ndim == 3:
        if writes_text(model):
            decodes = isinstance(inputs, Mapping) and "decoder_input_ids" in inputs
            return Does("seq2seq" if decodes else "causal-lm", output.shape[-1])
        return Does(
            "embedding",
            output.shape[-1],
            (
                f"The network answers {_per_sample(output)} for a text and writes none: texts are compared by the mean over "
                "their tokens (embedding).",
            ),
        )
    return _regression(output, f"it answers {_per_sample(output)} for each sample, which is no list of classes")


def _of_numbers(model: nn.Module, output: Tensor, labels: Tensor | None, path: str, reads_text: bool) -> Does:
    """Classes or plain numbers: what [n, outputs] stands for."""
    num, config = output.shape[1], getattr(model, "config", None)
    classes = Does("text-classification" if reads_text else "image-classification", max(2, num))
    switch = f"Pass --kind {classes.kind} for a logit."
    stated = getattr(config, "problem_type", None)
    if stated == "regression":
        return _regression(output, "its configuration says so")
    if stated == "multi_label_classification":
        return _regression(output, "several of its classes may be true at once, so the largest output alone says little")
    if labels is not None and labels.is_floating_point():
        return _regression(output, "the labels are no class numbers")
    if labels is not None and len(labels) and num == 1 and int(labels.max()) > 1:
        return _regression(output, f"it has one output, and labels run to {int(labels.max())}", switch)
    if labels is not None:
        note = "The network has one output and labels are 0 and 1, so it is a logit. Pass --kind regression for a number."
        return classes._replace(notes=(note,) if num == 1 else ())
    if num == 1:
        return _regression(output, "it has one output and there are no labels, so that is taken for a number", switch)
    words = f"{type(model).__name__} {'.'.join(path.split('.')[-2:])}"
    named = NAMED_CLASSES.search(words) or getattr(model, "num_classes", None) == num
    if named or getattr(config, "label2id", None) or is_probability(output):
        return classes
    if NAMED_NUMBERS.search(words):
        name = path if NAMED_NUMBERS.search(path) else type(model).__name__
        return _regression(output, f"its {num} outputs come from {name}", f"Pass --kind {classes.kind} for classes.")
    return classes._replace(
        notes=(
            f"Nothing says whether the network's {num} outputs are classes or plain numbers; without labels they are taken for "
            "classes. Pass --kind regression if they are numbers, such as coordinates.",
        )
    )


def _regression(output: Tensor, why: str, switch: str = "") -> Does:
    """Whoever reads the grade has to know that it is no share of right answers."""
    note = (
        f"The network is graded as regression, since {why}: relative error and correlation against the original's numbers, "
        "R² against labels in numbers."
    )
    return Does("regression", output.shape[1], (f"{note} {switch}".rstrip(),))


def _answer(model: nn.Module, inputs: Inputs) -> tuple[Any, Tensor, str]:
    """The answer, its main tensor, and the path of the last module with weights that ran."""
    ran = [""]
    weighty = [(path, m) for path, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    noting = hooked(after=[(m, lambda *_, path=path: ran.append(path)) for path, m in weighty])
    try:
        with noting, ready(model, inputs) as there, seeded():
            raw = call(model, there)
            return raw, output_of(raw), ran[-1]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"The network cannot read the data, {_shapes(inputs)}: {reason}. "
            "Check that they suit it, or set --size, --channels or --max-length."
        ) from error


def is_probability(output: Tensor) -> bool:
    """Whether rows [n, classes] are probabilities already: none below 0, and each row sums to 1."""
    if output.shape[1] < 2 or not output.is_floating_point() or not len(output):
        return False
    if output[0].min() < 0 or output.min() < 0:  # the first row tells for most, at no cost
        return False
    return bool((output.float().sum(1) - 1).abs().max() < (1e-2 if output.dtype.itemsize < 4 else 1e-4))


def writes_text(model: nn.Module) -> bool:
    """Whether a network predicts the next token; an own one that does not say so is taken to."""
    # Masked language models have logits for each position too; can_generate tells them apart.
    can_generate = getattr(model, "can_generate", None)
    return bool(can_generate()) if callable(can_generate) else True


def has_decoder_inputs(model: nn.Module) -> bool:
    """Whether a network reads one text and is told what it has written so far: an encoder-decoder, with its head or bare."""
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False) or "decoder_input_ids" not in inspect.signature(model.forward).parameters:
        return False
    return writes_text(model) or getattr(model, "base_model", None) is model


def token_ids(inputs: Inputs) -> Tensor | None:
    """[n, positions] token ids among the inputs, None where there are none."""
    if isinstance(inputs, Mapping):
        return inputs.get("input_ids")
    return inputs if inputs.ndim == 2 and not inputs.is_floating_point() else None


def _per_sample(output: Tensor) -> str:
    return " × ".join(map(str, output.shape[1:]))


def _shapes(inputs: Inputs) -> str:
    if isinstance(inputs, Tensor):
        return f"a tensor {list(inputs.shape)}"
    return ", ".join(f"{name} {list(x.shape)}" for name, x in inputs.items())
