"""A linear layer and the batch norm behind it as one matrix and one shift, and back, exactly."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.errors import ModelError
from delayer.network.inside_block import Run
from delayer.network.norms import scale_and_shift

Layer = nn.Linear | nn.Conv2d


def whole(layer: nn.Module) -> bool:
    """Whether a layer is one matrix of its patches: a Linear, or a convolution of all channels with zeros around."""
    return not isinstance(layer, nn.Conv2d) or (
        layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )


def fold(layer: Layer, norm: _BatchNorm | None, name: str = "") -> tuple[Tensor, Tensor]:
    """Weight [o, D] and bias [o] in float64 of a layer with its batch norm, exactly as it stands in evaluation mode.

    Raises ModelError for a batch norm that follows each batch, and for a grouped or oddly padded convolution.
    """
    if isinstance(layer, nn.Conv2d) and not whole(layer):
        raise ModelError(
            f"Layer {name} is a convolution with groups={layer.groups}, padding={layer.padding!r}, "
            f"{layer.padding_mode}; only whole ones with zeros around can be re-solved. Leave this block as it is."
        )
    weight = layer.weight.detach().double().flatten(1)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.detach().double()
    if norm is None:
        return weight, bias
    found = scale_and_shift(norm)
    if norm.training or found is None:
        raise ModelError(
            f"The batch norm behind {name} normalises by each batch (training mode, or no running statistics), so it is no "
            "fixed map and cannot be folded. Call model.eval(), and keep track_running_stats on."
        )
    scale, shift = found
    return weight * scale[:, None], bias * scale + shift


def unfold_(
    layer: Layer,
    norm: _BatchNorm | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
) -> None:
    """Make a layer and its batch norm answer weight · x + bias, without a new parameter.

    mean, variance: of weight · x [o] on the rows that it was fitted to, needed where there is a norm. They become the norm's
    statistics, as if it had been trained there, so that fine-tuning and counting new statistics go on from something sensible.
    """
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if norm is None or norm.running_mean is None or norm.running_var is None or mean is None or variance is None:
            if layer.bias is not None:
                layer.bias.copy_(bias)
            return
        if layer.bias is not None:
            layer.bias.zero_()
        norm.running_mean.copy_(mean if norm.bias is not None else -bias)
        norm.running_var.copy_(variance if norm.weight is not None else torch.full_like(variance, 1 - norm.eps))
        # From the statistics as they were stored, so that rounding them costs nothing.
        if norm.weight is not None:
            norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        if norm.bias is not None:
            norm.bias.copy_(bias.to(norm.running_mean.device) + norm.running_mean.double())


def folded(block: nn.Module, run: Run, path: str = "") -> tuple[Layer, _BatchNorm | None, Tensor, Tensor]:
    """A block's layer (its last, or the one at a path), its batch norm, and both as one weight [o, D] and bias [o]."""
    layer = run.layer(path) if path else run.ending[0]
    linear = block.get_submodule(layer.path)
    norm = block.get_submodule(layer.norm) if layer.norm else None
    assert isinstance(linear, Layer) and isinstance(norm, _BatchNorm | None)  # a run shows no others
    return linear, norm, *fold(linear, norm, layer.path)


def takes_bias(layer: Layer, norm: _BatchNorm | None) -> bool:
    """Whether a layer with its norm can answer with a shift of its own."""
    return norm is not None or layer.bias is not None


def window_of(layer: nn.Module) -> dict[str, tuple[int, int]] | None:
    """What `PatchMoments` asks about a layer: a convolution's window; None for a Linear."""
    if not isinstance(layer, nn.Conv2d):
        return None
    return {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
