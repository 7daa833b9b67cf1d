"""The NAS-Bench-201 cell space: 15,625 cells of four nodes, six edges and five operations, written as strings.

Source: Dong & Yang 2020, arXiv 2001.00326. `|a~0|+|b~0|c~1|+|d~0|e~1|f~2|` says that node 1 is a of node 0 (the input),
node 2 the sum of b of node 0 and c of node 1, and node 3 (the output) the sum of d, e and f of nodes 0, 1 and 2.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from torch import nn

from delayer.errors import NasError
from delayer.nas.cell_network import CellNetwork
from delayer.nas.space import Space

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
_FORM = "|OP~0|+|OP~0|OP~1|+|OP~0|OP~1|OP~2|"


@lru_cache(maxsize=20_000)
def cell_operations(cell: str) -> tuple[str, ...]:
    """The operations of a cell string, in the order of EDGES; operations may stand in any order inside a node.

    Raises NasError for another form, and for an operation that there is not.
    """
    nodes = cell.strip().split("+")
    found: dict[tuple[int, int], str] = {}
    for node, text in enumerate(nodes, 1):
        for operation, source in re.findall(r"([^|~]+)~(\d+)(?=\|)", text):
            if operation not in OPERATIONS:
                raise NasError(f"The cell {cell!r} has an unknown operation {operation!r}. Allowed are {', '.join(OPERATIONS)}.")
            found[int(source), node] = operation
    if set(found) != set(EDGES) or cell.count("~") != len(EDGES) or cell.count("|") != 9:
        raise NasError(f"{cell!r} is no cell of this space. Write {_FORM}, each OP one of {', '.join(OPERATIONS)}.")
    return tuple(found[edge] for edge in EDGES)


def cell_string(operations: tuple[str, ...]) -> str:
    """The standard spelling of six operations in the order of EDGES."""
    nodes = [[f"{op}~{source}" for (source, to), op in zip(EDGES, operations, strict=True) if to == node] for node in (1, 2, 3)]
    return "+".join("|" + "|".join(edges) + "|" for edges in nodes)


@lru_cache(maxsize=20_000)
def canonical_cell(cell: str) -> str:
    """An expression that cells of the same computation share: `none` is gone, and a skip is what it skips from.

    What a dead node feeds is gone too: a convolution of zeros is a constant, which its neighbours' norms absorb.
    Sums are sorted; an operation whose result is used twice keeps its number, since its weights are shared then.
    Dead cells all have the key "".
    """
    operations = dict(zip(EDGES, cell_operations(cell), strict=True))
    live, wanted = {0}, {3}
    for node in (1, 2, 3):
        live |= {node} if any(s in live and op != "none" for (s, to), op in operations.items() if to == node) else set()
    for node in (3, 2, 1):
        wanted |= {s for (s, to), op in operations.items() if to == node and node in wanted and op != "none"}
    if 3 not in live:
        return ""

    def expression(node: int) -> tuple[str, ...]:
        terms: list[str] = []
        for (source, to), op in operations.items():
            if to == node and op != "none" and source in live:
                inner = expression(source) if source else ("x",)
                terms += inner if op == "skip_connect" else [f"{op}({'+'.join(inner)})"]
        return tuple(sorted(terms))

    counts = [
        sum(op == kind and s in live and s in wanted | {0} and to in wanted for (s, to), op in operations.items())
        for kind in OPERATIONS[2:4]
    ]
    return f"{'+'.join(expression(3))} #{counts[0]},{counts[1]}"


class CellSpace(Space):
    """NAS-Bench-201 cells in their network: a stem, three stages of `num_cells` cells, `width` channels at first."""

    choices: Mapping[str, tuple[str, ...]] = {f"{source}->{to}": OPERATIONS for source, to in EDGES}

    def __init__(self, *, width: int = 16, num_cells: int = 5):
        self.width, self.num_cells = width, num_cells

    def encode(self, chosen: Mapping[str, str]) -> str:
        """The cell string of one operation an edge."""
        return cell_string(tuple(chosen[edge] for edge in self.choices))

    def decode(self, candidate: str) -> dict[str, str]:
        """The operation of each edge of a cell string."""
        return dict(zip(self.choices, cell_operations(candidate), strict=True))

    def canonical(self, candidate: str) -> str:
        """The same for all cells that compute the same."""
        return canonical_cell(candidate)

    def is_dead(self, candidate: str) -> bool:
        """Whether no path leads through the cell."""
        return canonical_cell(candidate) == ""

    def build(self, candidate: str, *, in_channels: int = 3, num_classes: int = 10) -> nn.Module:
        """The network that repeats the cell."""
        operations = dict(zip(EDGES, cell_operations(candidate), strict=True))
        return CellNetwork(
            operations, width=self.width, num_cells=self.num_cells, in_channels=in_channels, num_classes=num_classes
        )

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The stem and every cell, in order."""
        assert isinstance(model, CellNetwork)  # which this space builds
        return [model.stem, *model.body]
