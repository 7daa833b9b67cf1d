"""Two layers side by side whose outputs are added, as one layer: residual connections and 1×1 shortcuts."""

from math import gcd

import torch
from torch import Tensor

from delayer.merging.operator import Ints, Operator, regroup
from delayer.merging.verdict import Refusal


def add(one: Operator, other: Operator) -> Operator:
    """The operator whose output is the sum; an identity adds 1 at the centre tap of each channel's own kernel.

    Raises Refusal where strides, sizes or centres differ.
    """
    if (one.num_in, one.num_out, one.stride) != (other.num_in, other.num_out, other.stride):
        raise Refusal(
            f"a shortcut of {other.num_in} to {other.num_out} channels with stride {other.stride} does not add to layers of "
            f"{one.num_in} to {one.num_out} channels with stride {one.stride}"
        )
    if one.rank and any(
        2 * p - r != 2 * q - s for p, r, q, s in zip(one.padding, one.reach, other.padding, other.reach, strict=True)
    ):
        raise Refusal("a shortcut and the layers beside it give images of different sizes")
    groups = gcd(one.groups, other.groups)
    big, small = (one, other) if sum(one.padding) >= sum(other.padding) else (other, one)
    offsets = tuple(p - q for p, q in zip(big.padding, small.padding, strict=True))
    if any(offset < 0 for offset in offsets):
        raise Refusal("one kernel is wider in one dimension and the other kernel in another")
    dilation = tuple(
        gcd(*(d if k > 1 else 0 for d, k in ((b, kb), (s, ks))), offset) or 1
        for b, kb, s, ks, offset in zip(big.dilation, big.kernel, small.dilation, small.kernel, offsets, strict=True)
    )
    size = tuple(r // d + 1 for r, d in zip(big.reach, dilation, strict=True))

    def placed(operator: Operator, weight: Tensor, offset: Ints) -> Tensor:
        wide = weight.new_zeros(*weight.shape[:2], *size)
        wide[
            (
                ...,
                *(
                    slice(o // d, (o + e * (k - 1)) // d + 1, e // d if k > 1 else 1)
                    for o, e, k, d in zip(offset, operator.dilation, operator.kernel, dilation, strict=True)
                ),
            )
        ] = weight
        return wide

    zero = (0,) * big.rank
    weight = placed(big, regroup(big.weight, big.groups, groups), zero)
    weight = weight + placed(small, regroup(small.weight, small.groups, groups), offsets)
    ones = [placed(x, x.ones, o) for x, o in ((big, zero), (small, offsets)) if x.ones is not None]
    biases = [x.bias for x in (big, small) if x.bias is not None]
    return Operator(
        weight,
        torch.stack(biases).sum(0) if biases else None,
        big.stride,
        big.padding,
        dilation,
        groups,
        torch.stack(ones).sum(0) if ones else None,
        one.strips + other.strips,
    )
