"""Distances and angles between all points of equal width, row by row: the cheap statistic."""

from collections.abc import Callable, Iterable, Mapping
from math import pi
from typing import Any

import torch
from torch import Tensor

from delayer.observing.rows import Rows

STRIP_BYTES = 64 * 2**20
"""Rows of a group are widened to float64 so many at a time."""


class Geometry:
    """Sums over rows of ‖h_j − h_i‖², ‖h_i‖², cos(h_i, h_j) and arccos(cos) / π, in float64.

    groups: runs of points; all pairs inside a run are kept.
    After a pass, `squared_distance`, `cosine` and `angle` [points, points] are means over rows (NaN for pairs that
    were not watched together) and so is `squared_norm` [points].
    """

    def __init__(self, groups: Iterable[tuple[int, ...]], rows: Rows, num_points: int):
        self.groups = tuple(tuple(group) for group in groups)
        self.points = tuple(sorted({point for group in self.groups for point in group}))
        self.rows, self.num_points = rows, num_points
        names = ("count", "product", "distance", "cosine", "angle")
        self._sums = {name: torch.zeros(num_points, num_points, dtype=torch.float64) for name in names}

    def update(self, rows: Mapping[int, Tensor], ids: Tensor) -> None:
        """Add rows: each point's [rows, width], and the number of each row."""
        for group in self.groups:
            most = max(1, STRIP_BYTES // (8 * len(group) * rows[group[0]].shape[1]))
            for start in range(0, len(rows[group[0]]), most):
                self._add(group, torch.stack([rows[p][start : start + most] for p in group], 1).double())

    def _add(self, group: tuple[int, ...], x: Tensor) -> None:
        """Add rows [n, points of the group, width]."""
        products = x @ x.mT
        squares = torch.diagonal(products, dim1=1, dim2=2)
        # Not ‖x‖² + ‖y‖² − 2⟨x, y⟩, which loses all digits where a block changes next to nothing.
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
        norms = squares.sqrt()
        scale = norms[:, :, None] * norms[:, None]
        # A zero row points nowhere: it is parallel to another zero row and square to anything else.
        cosine = torch.where(scale > 0, products / scale.clamp_min(1e-300), (distance == 0).to(x)).clamp(-1, 1)
        at, other = torch.meshgrid(torch.tensor(group), torch.tensor(group), indexing="ij")
        for name, values in (("product", products), ("distance", distance), ("cosine", cosine), ("angle", cosine.arccos() / pi)):
            self._sums[name][at, other] += values.sum(0).cpu()
        self._sums["count"][at, other] += len(x)

    def merge(self, other: "Geometry") -> None:
        """Add what another one of the same points has seen."""
        for name in self._sums:
            self._sums[name] += other._sums[name]

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Add up what all processes have seen, in each."""
        for sums in self._sums.values():
            add_(sums)

    def _mean(self, name: str) -> Tensor:
        return self._sums[name] / self._sums["count"]

    @property
    def squared_distance(self) -> Tensor:
        """Mean of ‖h_j − h_i‖² [points, points]."""
        return self._mean("distance")

    @property
    def cosine(self) -> Tensor:
        """Mean cosine [points, points]."""
        return self._mean("cosine")

    @property
    def angle(self) -> Tensor:
        """Mean angle over π [points, points]."""
        return self._mean("angle")

    @property
    def squared_norm(self) -> Tensor:
        """Mean of ‖h_i‖² [points]."""
        return self._mean("product").diagonal()

    @property
    def num_rows(self) -> int:
        """Rows seen, at the pair that saw most."""
        return int(self._sums["count"].max())

    def state(self) -> dict[str, Tensor]:
        """The sums as tensors, to be saved and loaded again."""
        return {name: sums.clone() for name, sums in self._sums.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._sums = {name: state[name].clone() for name in self._sums}
