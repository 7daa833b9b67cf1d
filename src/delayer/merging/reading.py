"""The operator that a module computes in evaluation mode, or why there is none."""

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from delayer.merging.operator import Operator, diagonal
from delayer.merging.verdict import Refusal
from delayer.modules.linearised import Linearised
from delayer.network.norms import scale_and_shift

_CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
_PASSES = ("DropPath", "StochasticDepth")  # libraries' own; they pass in evaluation mode


def passes(module: nn.Module) -> bool:
    """Whether a module hands on its input unchanged, in evaluation mode."""
    return isinstance(module, (nn.Identity, _DropoutNd)) or type(module).__name__.endswith(_PASSES)


def is_norm(module: nn.Module) -> bool:
    """A batch norm; a library's own may have a dropout and an activation inside, which by now are linear."""
    return isinstance(module, _BatchNorm) and all(passes(child) or isinstance(child, Linearised) for child in module.children())


def rank_of(module: nn.Module) -> int | None:
    """Over how many dimensions of an image a module's kernel goes, 0 for a matrix, None for any other module."""
    if _is_matrix(module):
        return 0
    return next((rank for kind, rank in _CONVOLUTIONS.items() if isinstance(module, kind)), None)


def is_affine(module: nn.Module) -> bool:
    """Whether a module is of a kind that merges, or could but for how it is set up (then `read` says why not)."""
    return rank_of(module) is not None or isinstance(module, (_ConvTransposeNd, Linearised)) or is_norm(module) or passes(module)


def read(module: nn.Module, rank: int, *, num_dims: int | None = None, hollow: bool = False) -> Operator | None:
    """A module as an operator over `rank` dimensions in float64 on the CPU (or as shapes on `meta`); None for one that passes.

    num_dims: of the input, batch included, where it is known.
    Raises Refusal for a norm in training mode, a padding other than zeros, a transposed convolution and the like.
    """
    if passes(module):
        return None
    if isinstance(module, _ConvTransposeNd):
        raise Refusal("a transposed convolution spreads its input, which no convolution does")
    if isinstance(module, Linearised):
        _check_axis(module.axis, rank, num_dims)
        return diagonal(_double(module.scale), _double(module.shift), rank)
    if isinstance(module, _BatchNorm):
        _check_axis(1, rank, num_dims)
        return _norm(module, rank, num_dims, hollow)
    if isinstance(module, nn.Linear):
        return Operator(_double(module.weight), _bias(module.bias))
    if _is_transposed(module):
        return Operator(_double(module.weight.T), _bias(module.bias))
    if isinstance(module, _ConvNd):
        return _convolution(module)
    raise Refusal(f"{type(module).__name__} is no layer that merges")


def check_mode(module: nn.Module) -> None:
    """Raises Refusal for a norm that reads its statistics from each batch."""
    if isinstance(module, _BatchNorm) and module.training:
        raise Refusal("a batch norm in training mode reads its statistics from each batch; call model.eval() first")


def _norm(module: _BatchNorm, rank: int, num_dims: int | None, hollow: bool) -> Operator:
    """γ / √(var + ε) · (x − mean) + β, with the module's own ε."""
    found = scale_and_shift(module)
    if found is None:
        raise Refusal("a batch norm that keeps no running statistics reads them from each batch, so it is no fixed map")
    if not hollow:
        check_mode(module)
    scale, shift = (_double(numbers) for numbers in found)
    for child in module.children():
        if isinstance(child, Linearised):
            _check_axis(child.axis, rank, num_dims)
            scale, shift = scale * _double(child.scale), shift * _double(child.scale) + _double(child.shift)
    return diagonal(scale, shift, rank)


def _convolution(module: _ConvNd) -> Operator:
    kind = next(kind for kind in _CONVOLUTIONS if isinstance(module, kind))
    if type(module).forward is not kind.forward or type(module)._conv_forward is not kind._conv_forward:
        raise Refusal(f"{type(module).__name__} computes its convolution in a way of its own")
    if module.padding_mode != "zeros":
        raise Refusal(f"padding by {module.padding_mode} is not padding by zeros, the only one that merges")
    padding = module.padding
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if isinstance(padding, str):
        if padding == "same" and any(r % 2 for r in reach):
            raise Refusal('padding="same" pads an even kernel more on one side than on the other')
        padding = tuple(r // 2 if padding == "same" else 0 for r in reach)
    return Operator(
        _double(module.weight), _bias(module.bias), tuple(module.stride), tuple(padding), tuple(module.dilation), module.groups
    )


def _is_matrix(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    return _is_transposed(module)


def _is_transposed(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Hugging Face's Conv1D: as good as a Linear, whose weight lies on its side."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _check_axis(axis: int, rank: int, num_dims: int | None) -> None:
    """Raises Refusal unless an axis is the one whose features the neighbours mix."""
    own = rank + 2 if rank else num_dims or 2
    found, needed = (axis % own if -own <= axis < own else axis), (1 if rank else own - 1)
    if found != needed:
        raise Refusal(f"it scales features on axis {axis}, where the layer beside it mixes those on axis {needed}")


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("meta" if tensor.is_meta else "cpu", torch.float64)


def _bias(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else _double(bias)
