"""What a network costs: parameters, bytes, multiply-adds and peak memory; milliseconds come from `timing`."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from delayer.network.calling import Inputs, call, first_tensor, ready, unfused


def num_params(model: nn.Module) -> int:
    """How many parameters the model has; a shared one counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """What parameters and buffers take in memory, in bytes; a shared one counts once."""
    return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))


def num_macs(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-adds of one forward pass over the whole batch: matrix products, convolutions and attention.

    Attention counts every pair of positions, masked or not. Biases, norms, activations and pooling count as
    nothing, as usual; so do recurrent layers (nn.LSTM and its kin), which torch's counter does not know.
    Source: torch.utils.flop_counter, halved.
    """
    with ready(model, inputs) as inputs, _countable(model), FlopCounterMode(display=False) as counter:
        call(model, inputs)
    return counter.get_total_flops() // 2


def macs_by_module(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Multiply-adds of each module, by its path, over the whole batch; counted as `num_macs` counts."""
    with ready(model, inputs) as inputs, _countable(model), FlopCounterMode(display=False) as counter:
        call(model, inputs)
    root = type(model).__name__ + "."
    counts = counter.get_flop_counts()
    return {path.removeprefix(root): sum(by_kind.values()) // 2 for path, by_kind in counts.items()}


@contextmanager
def _countable(model: nn.Module) -> Iterator[None]:
    # The counter hooks backward passes of what wants gradients, and stumbles over a view of a parameter (learnt queries,
    # class tokens), which wants them and has no history; nothing here has a backward pass.
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in wanting:
            parameter.requires_grad_(False)
        # Fused kernels would count as nothing, and which attention kernel runs depends on the device; matrix products count
        # the same everywhere.
        with unfused(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


def peak_memory_mib(model: nn.Module, inputs: Inputs, device: torch.device | str | None = None) -> float:
    """The most memory that weights, inputs and activations take together during one forward pass, in MiB.

    Where torch's allocator keeps a record (CUDA, XPU), activations are the most that it handed out, after one
    pass to warm up; scratch space of kernels is included. Elsewhere (CPU) they are the bytes of all tensors
    alive after any operation: the same on every run, without scratch space. What others hold does not count.
    """
    with ready(model, inputs, device) as inputs:
        live = _LiveBytes()
        live.see([*model.parameters(), *model.buffers(), inputs])
        place = first_tensor(inputs).device
        allocator = torch.get_device_module(place)
        if hasattr(allocator, "max_memory_allocated"):
            call(model, inputs)
            allocator.reset_peak_memory_stats(place)
            before = allocator.memory_allocated(place)
            call(model, inputs)
            return (live.now + allocator.max_memory_allocated(place) - before) / 2**20
        with live:
            call(model, inputs)
        return live.peak / 2**20


class _LiveBytes(TorchDispatchMode):
    """Follows the storage of every tensor that an operation returns, until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages: dict[int, weakref.ref] = {}

    def see(self, result: object) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(storage := tensor.untyped_storage()) not in self.storages:
                key, num_bytes = id(storage), storage.nbytes()
                self.storages[key] = weakref.ref(storage, partial(self._freed, key, num_bytes))
                self.now += num_bytes
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, num_bytes: int, _: weakref.ref) -> None:
        del self.storages[key]
        self.now -= num_bytes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.see(result)
        return result
