"""One layer behind another as one layer, border included.

K = Σ_m Σ_a W2[o, m, a] · W1[m, i, (t − s1·d2·a) / d1], stride s1·s2, padding p1 + s1·p2, bias b2 + Σ_m (Σ_a W2[o, m, a]) b1[m].
The merged kernel sees what the first layer would give outside its image, where the second layer sees zeros. Both are
the same where the second has no padding, and where the first gives zero there: its kernel no longer touches the image
(reach ≤ padding, as for 1×1), and its bias is zero. Otherwise the border is wrong, and a repair makes it right or the
merge is refused.
"""

from dataclasses import replace
from itertools import product
from math import gcd

from torch import Tensor

from delayer.merging.operator import Operator, check_neighbours, regroup
from delayer.merging.verdict import Refusal, Repair


def compose(first: Operator, second: Operator, repair: Repair = "none", *, hollow: bool = False) -> Operator:
    """The operator that does what `second` does to the output of `first`.

    hollow: weights are still to be filled in, so that only shapes count, and a bias may be zero later on.
    What stands there depends on shapes and on the repair alone, never on values: a saved network is rebuilt so.
    Raises Refusal naming what would be wrong.
    """
    check_neighbours(first, second)
    merged = _interior(first, second)
    if not any(second.padding):
        return replace(merged, strips=tuple((p, _interior(s, second.without_bias)) for p, s in first.strips))
    if first.strips:
        raise Refusal("a second padded kernel stands behind a border that is repaired by a strip already")
    touched = any(p2 and reach > p1 for p2, reach, p1 in zip(second.padding, first.reach, first.padding, strict=True))
    biased = first.bias is not None and (repair != "none" or (not hollow and bool(first.bias.any())))
    if not touched and not biased:
        return replace(merged, bias=second.bias)
    if repair == "border_strip" and first.ones is None:
        return replace(merged, strips=((first, second.without_bias),))
    if touched:
        raise Refusal(
            f"a {_size(first.kernel)} kernel and a padded {_size(second.kernel)} kernel become one in the interior alone: the "
            "second sees zeros around its image, where the merged one sees what the first gives there. Repair it by "
            "border_strip, or move the padding to the first before fine-tuning (move_padding)"
        )
    if repair == "constant_channel" and not any(first.padding) and first.bias is not None:
        tap = _tap(first, first.bias)
        first = replace(first, ones=tap if first.ones is None else first.ones + tap, bias=None)
        return replace(_interior(first, second), bias=second.bias)
    raise Refusal(
        f"the padded {_size(second.kernel)} kernel sees zeros around its image, where the merged one would see the first layer's "
        f"bias, so a ring of width {max(second.padding)} would be wrong. Repair it by "
        + ("bias_map or border_strip" if any(first.padding) else "constant_channel, bias_map or border_strip")
    )


def _interior(first: Operator, second: Operator) -> Operator:
    """The merged operator as if there were no border; strips are not carried on."""
    weight, dilation, groups = _kernel(first, first.weight, first.groups, second)
    ones = None if first.ones is None else _kernel(first, first.ones, 1, second)[0]
    bias = second.bias
    if first.bias is not None:
        summed = second.weight.flatten(2).sum(2) if second.rank else second.weight
        parts = summed.view(second.groups, -1, summed.shape[1]) @ first.bias.view(second.groups, -1, 1)
        bias = parts.flatten() if bias is None else bias + parts.flatten()
    each = list(zip(first.stride, second.stride, first.padding, second.padding, strict=True))
    return Operator(
        weight,
        bias,
        tuple(s1 * s2 for s1, s2, _, _ in each),
        tuple(p1 + s1 * p2 for s1, _, p1, p2 in each),
        dilation,
        groups,
        ones,
    )


def _kernel(first: Operator, weight: Tensor, groups: int, second: Operator) -> tuple[Tensor, tuple[int, ...], int]:
    """The merged kernel of one of the first's kernels, its dilation and its groups."""
    common = gcd(groups, second.groups)
    steps1 = first.dilation
    steps2 = tuple(s1 * d2 for s1, d2 in zip(first.stride, second.dilation, strict=True))
    sizes = list(zip(first.kernel, second.kernel, steps1, steps2, strict=True))
    dilation = tuple(gcd(e1 if k1 > 1 else 0, e2 if k2 > 1 else 0) or 1 for k1, k2, e1, e2 in sizes)
    size = tuple((e1 * (k1 - 1) + e2 * (k2 - 1)) // d + 1 for (k1, k2, e1, e2), d in zip(sizes, dilation, strict=True))
    inner = regroup(weight, groups, common)
    rows = inner.reshape(second.groups, inner.shape[0] // second.groups, -1)
    outer = second.weight.view(second.groups, -1, *second.weight.shape[1:])
    merged = weight.new_zeros(second.num_out, inner.shape[1], *size)
    for tap in product(*(range(k) for k in second.kernel)):
        part = (outer[(..., *tap)] @ rows).view(second.num_out, *inner.shape[1:])
        merged[
            (
                ...,
                *(
                    _taps(a * e2 // d, k1, e1 // d if k1 > 1 else 1)
                    for a, (k1, _, e1, e2), d in zip(tap, sizes, dilation, strict=True)
                ),
            )
        ] += part
    return merged, dilation, common


def _taps(start: int, num: int, step: int) -> slice:
    return slice(start, start + step * (num - 1) + 1, step)


def _tap(first: Operator, bias: Tensor) -> Tensor:
    """The kernel with which a channel of ones gives the first layer's bias."""
    kernel = first.weight.new_zeros(first.num_out, 1, *first.kernel)
    kernel[(slice(None), 0, *[0] * first.rank)] = bias
    return kernel


def _size(kernel: tuple[int, ...]) -> str:
    return "×".join(map(str, kernel))
