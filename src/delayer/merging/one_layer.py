"""One layer for a part, with the number that proves it, or the reason why not."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from delayer.merging.adding import add
from delayer.merging.composing import compose
from delayer.merging.modules import BiasMap, BorderStrip, ConstantChannel, module_of
from delayer.merging.operator import Operator, identity
from delayer.merging.part import Part, in_a_row, num_macs
from delayer.merging.reading import check_mode, is_affine, rank_of, read
from delayer.merging.shortcuts import Every, MoreChannels
from delayer.merging.verdict import Refusal, Repair, Verdict

LARGEST_ERROR = 1e-10
"""Most that a merged layer may differ, relative to the largest output, in float64."""


@dataclass(frozen=True)
class Merge:
    """What became of a part.

    module: the one layer, in float64 on the CPU; None where it was refused.
    error: largest difference on whole images, border included, in float64, relative to the largest output; NaN where
    it was refused, or where weights are still to come.
    """

    module: nn.Module | None
    verdict: Verdict
    error: float = float("nan")


def merge(part: Part, repair: Repair = "none", shape: tuple[int, ...] | None = None, *, hollow: bool = False) -> Merge:
    """One layer that does what a part does in evaluation mode, checked in float64 on random inputs.

    shape: of one input, without the batch; by default a feature vector, or an image somewhat larger than the kernels.
    The repair bias_map holds for images of this size alone and asks for it.
    hollow: weights are still to be filled in; shapes alone are built, and nothing is checked.
    """
    try:
        merged, used = _merged(part, repair, shape, hollow)
    except Refusal as refusal:
        return Merge(None, Verdict(False, reason=str(refusal)))
    if hollow:
        return Merge(merged, Verdict(True, used))
    error = difference(part, merged, shape or _some_shape(merged))
    if not error <= LARGEST_ERROR:
        return Merge(
            None,
            Verdict(
                False,
                reason=(
                    f"the merged layer differs by {error:.1e} of the largest output in float64, and {LARGEST_ERROR:g} is allowed"
                ),
            ),
        )
    return Merge(merged, Verdict(True, used), error)


def folded(part: Part) -> Part:
    """A part with each norm, and each activation that became a line, inside the linear layer before it."""
    layers, readers = list(part.layers), Counter(i for step in part.steps for i in step.inputs)
    for k, step in enumerate(part.steps):
        before = step.inputs[0] - 1
        if (
            len(step.inputs) == 1
            and before >= 0
            and readers[before + 1] == 1
            and is_affine(layers[k])
            and rank_of(layers[k]) is None
            and rank_of(layers[before]) is not None
        ):
            merged = merge(in_a_row(layers[before], layers[k])).module
            if merged is not None:
                like = next(layers[before].parameters())
                layers[before], layers[k] = nn.Identity(), merged.to(like.device, like.dtype)
    return Part(part.steps, layers)


def growth(part: Part, repair: Repair = "none", shape: tuple[int, ...] | None = None) -> float:
    """Multiply-adds of the one layer over those of a part, for one input, from shapes alone; nothing is merged.

    Raises Refusal where shapes forbid the merge; what only values tell is not looked at.
    """
    for layer in part.layers:
        check_mode(layer)
    shapes = deepcopy(part).to("meta").eval()
    merged = _merged(shapes, repair, shape, True)[0]
    shape = shape or _some_shape(merged)
    return num_macs(merged, shape) / num_macs(shapes, shape)


def difference(part: nn.Module, merged: nn.Module, shape: tuple[int, ...], seed: int = 0) -> float:
    """Largest difference on two random inputs in float64, relative to the largest output."""
    with torch.no_grad():
        x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        expected, found = _exactly(part)(x), _exactly(merged)(x)
        if expected.shape != found.shape:
            return float("inf")
        return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def _merged(part: Part, repair: Repair, shape: tuple[int, ...] | None, hollow: bool) -> tuple[nn.Module, Repair]:
    ranks = {rank for layer in part.layers if (rank := rank_of(layer)) is not None}
    if len(ranks) > 1:
        raise Refusal("it mixes linear layers with convolutions, or convolutions over different numbers of dimensions")
    if not ranks:
        raise Refusal("there is no linear layer or convolution in it to merge into")
    rank = ranks.pop()
    num_dims = None if shape is None else len(shape) + 1
    mapped = repair == "bias_map" and rank > 0  # features have no border
    device = "meta" if any(weight.is_meta for weight in part.parameters()) else "cpu"
    values: list[Operator | None] = [None]  # None is the part's input, untouched
    for step, layer in zip(part.steps, part.layers, strict=True):
        given = [values[i] for i in step.inputs]
        if len(given) == 2:
            width = next((value.num_out for value in given if value is not None), None) or _width(part, rank, num_dims)
            values.append(add(*(identity(width, rank, device) if value is None else value for value in given)))
            continue
        if isinstance(layer, (Every, MoreChannels)):
            operator = layer.operator(_width(part, rank, num_dims) if given[0] is None else given[0].num_out, device)
            values.append(operator if given[0] is None else compose(given[0], operator, repair, hollow=hollow))
            continue
        operator = read(layer, rank, num_dims=num_dims, hollow=hollow)
        if operator is not None and mapped:
            operator = operator.without_bias
        values.append(
            given[0] if operator is None else operator if given[0] is None else compose(given[0], operator, repair, hollow=hollow)
        )
    result = values[-1]
    if result is None:
        raise Refusal("nothing in it changes its input")
    if mapped:
        if shape is None:
            raise Refusal("a bias map is made for one size of image; give the shape of the part's input, channels first")
        with torch.no_grad():
            whole = part if device == "meta" else _exactly(part)
            like = next(whole.parameters())
            empty = whole(torch.zeros(1, *shape, dtype=like.dtype, device=device))[0]
        return BiasMap(module_of(result), empty), "bias_map"
    used = "border_strip" if result.strips else "constant_channel" if result.ones is not None else "none"
    return module_of(result), used


def _exactly(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode and float64 on the CPU."""
    return deepcopy(module).to("cpu", torch.float64).eval()


def _width(part: Part, rank: int, num_dims: int | None) -> int:
    operators = (read(layer, rank, num_dims=num_dims, hollow=True) for layer in part.layers if rank_of(layer) is not None)
    return next(operator.num_in for operator in operators if operator is not None)


def _some_shape(merged: nn.Module) -> tuple[int, ...]:
    """A feature vector, or an image that has a border and an interior."""
    layer = merged
    while isinstance(layer, ConstantChannel | BiasMap | BorderStrip):
        layer = layer.layer
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    assert isinstance(layer, _ConvNd)  # a merge gives nothing else
    sizes = (
        2 * d * (k - 1) + 2 * s + 3 + i
        for i, (d, k, s) in enumerate(zip(layer.dilation, layer.kernel_size, layer.stride, strict=True))
    )
    return (layer.in_channels, *sizes)
