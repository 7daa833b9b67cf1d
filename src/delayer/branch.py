"""The linear layers inside a block, found by running it: which one answers last, and what is added to its answer.

A block is read as `tail(rest + norm(last(hidden)))`: `last` is a Linear or Conv2d, `norm` a batch norm or nothing, `rest`
the shortcut (nothing where there is none), and `tail` nothing or a ReLU. That a block is of this form is not taken from
its class: one forward pass is watched, and the numbers must agree.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from delayer.calling import hidden_in, hidden_out
from delayer.errors import ModelError

Tail = Literal["identity", "relu"]
TAILS: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda z: z, "relu": torch.relu}
RELUS = {torch.relu, torch.relu_, F.relu, F.relu_, Tensor.relu, Tensor.relu_}
ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


@dataclass(eq=False)
class Layer:
    """A linear layer that ran in a block: its path there, what it read, and what it answered behind its batch norm."""

    path: str
    read: Tensor
    answer: Tensor
    norm: str = ""


@dataclass(eq=False)
class Run:
    """What one forward pass of a block showed.

    before: its input. layers: in the order in which they ran. rest, total: the last addition that took a layer's answer,
    as rest + answer = total; without one, rest is None and total the last layer's answer. tail: from total to output.
    """

    before: Tensor
    layers: list[Layer] = field(default_factory=list)
    last: Layer | None = None
    rest: Tensor | None = None
    total: Tensor | None = None
    tail: Tail | None = None
    sum: Tensor | None = None  # the very tensor whose numbers `total` holds, for as long as nothing changes it in place
    rectified: bool = False

    def layer(self, path: str) -> Layer:
        return next(layer for layer in self.layers if layer.path == path)


class _Additions(TorchFunctionMode):
    """Notes additions that take a layer's answer, with their terms as they were before anything changed in place, and
    whether a ReLU follows."""

    def __init__(self, runs: list[Run]):
        super().__init__()
        self.runs = runs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        run = self.runs[-1] if self.runs else None
        terms = None
        if run is not None and func in RELUS and args and args[0] is run.sum:
            run.rectified = True
        if run is not None and func in ADDITIONS and len(args) == 2 and not kwargs:
            terms = _terms(run.layers, *args)
        out = func(*args, **(kwargs or {}))
        if terms:
            run.last, run.rest = terms
            run.total, run.sum, run.rectified = out.clone(), out, False
        return out


def _terms(layers: list[Layer], a: Any, b: Any) -> tuple[Layer, Tensor] | None:
    """The layer whose answer is one of the two terms, and the other term; None when neither is."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return None
    for layer in reversed(layers):
        for answer, other in ((a, b), (b, a)):
            if answer is layer.answer or answer.data_ptr() == layer.answer.data_ptr() and answer.shape == layer.answer.shape:
                return layer, other.clone()
    return None


@contextmanager
def running(block: nn.Module, see: Callable[[Run], None]) -> Iterator[None]:
    """Call `see` with what each forward pass of a block shows; hooks go away also after an exception.

    Inside, the network must be evaluating: a batch norm in training mode is no fixed map.
    """
    runs: list[Run] = []
    handles = []

    def enter(module, args, kwargs):
        runs.append(Run(before=hidden_in(args, kwargs)))

    def layer_ran(path):
        def note(module, args, output):
            if runs and args and isinstance(output, Tensor):
                runs[-1].layers.append(Layer(path, args[0], output))
        return note

    def norm_ran(path):
        def note(module, args, output):
            for layer in runs[-1].layers if runs else ():
                if args and args[0] is layer.answer:
                    layer.answer, layer.norm = output, path
        return note

    def leave(module, args, output):
        run = runs.pop()
        out = hidden_out(output)
        if run.total is None and run.layers:
            run.last, run.total = run.layers[-1], run.layers[-1].answer
        if run.total is not None and run.total.numel() == out.numel():
            # A total without a negative number looks the same behind a ReLU and without one, so the call counts as well.
            tail = "relu" if run.rectified else "identity"
            run.tail = tail if torch.equal(TAILS[tail](run.total.reshape(out.shape)), out) else None
        see(run)

    try:
        for path, module in block.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                handles.append(module.register_forward_hook(layer_ran(path)))
            elif isinstance(module, _BatchNorm):
                handles.append(module.register_forward_hook(norm_ran(path)))
        handles.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(block.register_forward_hook(leave))
        with _Additions(runs):
            yield
    finally:
        for handle in handles:
            handle.remove()


def check_form(run: Run, name: str) -> Run:
    """The same run, if its block has the form that this page states. Raises ModelError that says what is otherwise."""
    if not run.layers:
        raise ModelError(f"Block {name} ran no Linear or Conv2d, so there is no layer in it to re-solve. Choose another block.")
    if run.tail is None:
        raise ModelError(
            f"Block {name} does not end in shortcut + layer, with nothing or a ReLU behind it "
            f"(the last layer that ran is {run.layers[-1].path}), so its last layer has no target of its own. "
            "Leave this block as it is, or fine-tune instead."
        )
    return run


def whole(layer: nn.Module) -> bool:
    """Whether a layer is one matrix of its patches: a Linear, or a convolution of all channels with zeros around."""
    return not isinstance(layer, nn.Conv2d) or (
        layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str))


def fold(layer: nn.Module, norm: nn.Module | None, name: str = "") -> tuple[Tensor, Tensor]:
    """Weight [o, D] and bias [o] in float64 of a layer with its batch norm, exactly as it stands in evaluation mode.

    Raises ModelError for a batch norm that follows each batch, and for a grouped or oddly padded convolution.
    """
    if not whole(layer):
        raise ModelError(
            f"Layer {name} is a convolution with groups={layer.groups}, padding={layer.padding!r}, "
            f"{layer.padding_mode}; only whole ones with zeros around can be re-solved. Leave this block as it is."
        )
    weight = layer.weight.detach().double().flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach().double()
    if norm is None:
        return weight, bias
    if norm.training or norm.running_mean is None:
        raise ModelError(
            f"The batch norm behind {name} normalises by each batch (training mode, or no running statistics), so it is no "
            "fixed map and cannot be folded. Call model.eval(), and keep track_running_stats on."
        )
    scale = 1 / (norm.running_var.double() + norm.eps).sqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.detach().double(), shift * norm.weight.detach().double() + norm.bias.detach().double()
    return weight * scale[:, None], bias * scale + shift


def unfold_(layer: nn.Module, norm: nn.Module | None, weight: Tensor, bias: Tensor,
            mean: Tensor, variance: Tensor) -> None:
    """Make a layer and its batch norm answer weight · x + bias, without a new parameter.

    mean, variance: of weight · x [o] on the rows that it was fitted to. They become the norm's statistics, as if it had
    been trained there, so that fine-tuning and counting new statistics go on from something sensible.
    """
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if norm is None:
            if layer.bias is not None:
                layer.bias.copy_(bias)
            return
        if layer.bias is not None:
            layer.bias.zero_()
        if not norm.affine:
            mean, variance = -bias, torch.full_like(variance, 1 - norm.eps)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        if norm.affine:
            # From the statistics as they were stored, so that rounding them costs nothing.
            norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
            norm.bias.copy_(bias.to(norm.running_mean.device) + norm.running_mean.double())


def folded(block: nn.Module, run: Run, path: str = "") -> tuple[nn.Module, nn.Module | None, Tensor, Tensor]:
    """A block's layer (its last, or the one at a path), its batch norm, and both as one weight [o, D] and bias [o]."""
    layer = run.layer(path) if path else run.last
    linear = block.get_submodule(layer.path)
    norm = block.get_submodule(layer.norm) if layer.norm else None
    return linear, norm, *fold(linear, norm, layer.path)


def takes_bias(layer: nn.Module, norm: nn.Module | None) -> bool:
    """Whether a layer with its norm can answer with a shift of its own."""
    return norm is not None or layer.bias is not None


def window_of(layer: nn.Module) -> dict[str, tuple[int, int]] | None:
    """What `PatchMoments` asks about a layer: a convolution's window; None for a Linear."""
    if not isinstance(layer, nn.Conv2d):
        return None
    return {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
