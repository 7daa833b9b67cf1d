"""How a network is called, and which tensor of its answer counts.

Libraries disagree: torchvision takes and returns a tensor, Hugging Face takes keyword arguments and returns a
record, others return tuples. Everything that runs a network goes through these functions.
"""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import DataError, ModelError
from delayer.network.handing import apart, argument

Inputs = Tensor | Mapping[str, Tensor]


def call(model: Callable, inputs: Inputs) -> Any:
    """The model's answer as it comes: `model(x)` for a tensor, `model(**inputs)` for a dict of tensors.

    Raises DataError for anything else.
    """
    return model(inputs) if isinstance(inputs, Tensor) else model(**_by_name(inputs))


def _by_name(inputs: Any) -> Mapping[str, Tensor]:
    if isinstance(inputs, Mapping) and inputs:
        return inputs
    empty, kind = isinstance(inputs, Mapping), type(inputs).__name__
    raise DataError(
        f"A network is called with a tensor or with a dict of tensors; found {'an empty ' * empty}{kind}. "
        "Pass the tensor, or name each tensor after the argument of the network's forward."
    )


def output_of(raw: Any) -> Tensor:
    """The main tensor of an answer: itself, its logits, its last hidden state, or its first tensor that is no loss.

    A loss is a tensor without dimensions, or one of that name. Raises ModelError when the answer holds nothing else.
    """
    if isinstance(raw, Tensor) and raw.ndim:
        return raw
    named = raw if isinstance(raw, Mapping) else {}
    # A record may begin with a loss, so names come before its order.
    for name in ("logits", "last_hidden_state"):
        found = named.get(name, getattr(raw, name, None))
        if isinstance(found, Tensor) and found.ndim:
            return found
    items = [x for name, x in named.items() if name != "loss"] or (raw if isinstance(raw, tuple | list) else ())
    for item in items:
        if isinstance(item, Tensor) and item.ndim:
            return item
    found = "a single number" if isinstance(raw, Tensor) else type(raw).__name__
    raise ModelError(
        f"A network should answer with a tensor, or with a record or tuple that holds one (a loss, which is a single "
        f"number, is none); found {found}. Wrap it in a module whose forward returns the tensor that matters."
    )


def each_tensor(change: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The inputs with `change` done to each tensor."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {name: change(value) for name, value in _by_name(inputs).items()}


def with_batch(inputs: Inputs, batch_size: int) -> Inputs:
    """The inputs repeated in order, or cut short, to a batch size: samples 0, 1, .., n-1, 0, 1, .."""
    return each_tensor(lambda x: x[torch.arange(batch_size, device=x.device) % len(x)], inputs)


def first_tensor(inputs: Inputs) -> Tensor:
    """The tensor that tells the inputs' batch size and device."""
    return inputs if isinstance(inputs, Tensor) else next(iter(_by_name(inputs).values()))


def hidden_in(args: tuple, kwargs: dict, place: str = "") -> Tensor:
    """The hidden state among a block's arguments: at a place (`handing`), or else the first, or the one by name."""
    found = argument(place, args, kwargs) if place else None
    if not isinstance(found, Tensor):
        found = args[0] if args else kwargs.get("hidden_states")
    if found is None:
        found = next((value for value in kwargs.values() if isinstance(value, Tensor)), None)
    if not isinstance(found, Tensor):
        raise DataError("A block was called without a tensor as its first argument, so its input cannot be watched.")
    return found


def hidden_out(output: Any, place: str = "") -> Tensor:
    """The hidden state in a block's answer: the answer itself, or the item at a place (`handing`), or else the first."""
    if isinstance(output, Tensor):
        return output
    inner = apart(output)
    found = inner.items.get(place) if inner and place else None
    return found if isinstance(found, Tensor) else output[0]


@contextmanager
def evaluating(model: Callable) -> Iterator[None]:
    """Inside: evaluation mode, no gradients. After: each module in its own mode again, frozen norms too."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def unfused() -> Iterator[None]:
    """Inside: nn.MultiheadAttention and nn.TransformerEncoder compute step by step, not by fused kernels.

    These pass modules by, and hand masked tokens on as nested tensors, which have no shape to watch.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def seed_(seed: int) -> None:
    """Set torch's random numbers, those of an accelerator in use too; torch.manual_seed writes down a stack for each idle one."""
    torch.default_generator.manual_seed(seed)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        device = torch.get_device_module(accelerator.type)
        if hasattr(device, "manual_seed_all") and device.is_initialized():
            device.manual_seed_all(seed)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Inside: random numbers of torch, numpy and Python follow from the seed. After: they go on where they were.

    Networks are compared with the same seed around each batch (`batch.start`), so that one whose forward is random meets
    the same numbers, whatever ran before.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.get_device_module(accelerator.type) if accelerator else None
    if device is not None and not (hasattr(device, "get_rng_state_all") and device.is_initialized()):
        device = None
    numpy = sys.modules.get("numpy")  # which nothing draws from before it is imported
    before = random.getstate(), torch.get_rng_state(), numpy and numpy.random.get_state(), device and device.get_rng_state_all()
    try:
        random.seed(seed)
        seed_(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)
        yield
    finally:
        random.setstate(before[0])
        torch.set_rng_state(before[1])
        if numpy:
            numpy.random.set_state(before[2])
        if device:
            device.set_rng_state_all(before[3])


@contextmanager
def ready(model: Callable, inputs: Inputs, device: torch.device | str | None = None) -> Iterator[Inputs]:
    """Inside: the model evaluating on `device` (by default where its weights are); gives the inputs there.

    Afterwards the model is back where it was. What is not a module, such as an ONNX session, cannot be moved.
    """
    module = model if isinstance(model, nn.Module) else None
    weight = next(module.parameters(), None) if module is not None else None
    home = first_tensor(inputs).device if weight is None else weight.device
    there = torch.device(device) if device is not None and module is not None else home
    movable = module if weight is not None and there != home else None
    try:
        if movable is not None:
            movable.to(there)
        with evaluating(model):
            yield each_tensor(lambda x: x.to(there), inputs)
    finally:
        if movable is not None:
            movable.to(home)


def example_of(inputs: Inputs, size: int = 2) -> Inputs:
    """The first samples of a batch of inputs."""
    if isinstance(inputs, Tensor):
        return inputs[:size]
    return {name: value[:size] for name, value in inputs.items()}
