"""Linear neighbours become one layer, exactly: border, stride, padding, groups and dilation included.

    merge(in_a_row(conv1, norm1, conv2, norm2), "border_strip", shape=(64, 8, 8))

gives the one layer with its proof in float64, or says why there is none.
"""

from delayer.merging.adding import add
from delayer.merging.composing import compose
from delayer.merging.modules import BiasMap, BorderStrip, ConstantChannel, module_of
from delayer.merging.one_layer import LARGEST_ERROR, Merge, difference, folded, growth, merge
from delayer.merging.operator import Operator, diagonal, identity, regroup
from delayer.merging.part import Part, Step, in_a_row, num_macs, with_shortcut
from delayer.merging.reading import is_affine, read
from delayer.merging.verdict import Refusal, Repair, Verdict

__all__ = [
    "LARGEST_ERROR",
    "BiasMap",
    "BorderStrip",
    "ConstantChannel",
    "Merge",
    "Operator",
    "Part",
    "Refusal",
    "Repair",
    "Step",
    "Verdict",
    "add",
    "compose",
    "diagonal",
    "difference",
    "folded",
    "growth",
    "identity",
    "in_a_row",
    "is_affine",
    "merge",
    "module_of",
    "num_macs",
    "read",
    "regroup",
    "with_shortcut",
]
