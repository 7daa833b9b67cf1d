"""Second moments of pairs of points: what every closed-form map and its error are made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from delayer.observing.rows import Rows
from delayer.observing.stats.pair import Pair

ENOUGH_ROWS = 512
"""Rows that are worth a product of their own; fewer a batch (means, first tokens) are gathered first, so that they cost
little."""


def fits_single(x: Tensor) -> bool:
    """Whether products of these numbers neither vanish nor overflow in single precision; else they are taken in float64."""
    low, high = x.aminmax()  # one look at the numbers, and no copy of them
    return 1e-12 < max(-float(low), float(high)) < 1e15


class Moments:
    """Counts, sums Σx and products Σ x yᵀ for pairs of points of equal width, in float64.

    groups: runs of points; every pair inside a run is kept (a segment's points for all its spans, or just the two ends
    of one span).
    exact: products in float64. Otherwise those of a batch with many rows are taken in single precision, which halves the
    cost, and added in float64. They are taken about that batch's own mean, so that large means cost no digits, and so that
    a batch gives the same bits wherever and after whatever it is seen: any number of processes end up with the same.
    Rows too small or large for products in single precision get them in float64 too (`fits_single`).
    """

    def __init__(self, groups: Iterable[tuple[int, ...]], rows: Rows = Rows(), *, exact: bool = False):
        self.groups = tuple(tuple(group) for group in groups)
        self.points = tuple(sorted({point for group in self.groups for point in group}))
        self.rows, self.exact = rows, exact
        self._count = torch.zeros(len(self.groups), dtype=torch.float64)
        # By group, for those that have seen a row.
        self._shift: dict[int, Tensor] = {}
        self._sums: dict[int, Tensor] = {}
        self._products: dict[int, Tensor] = {}
        self._waiting: list[list[Tensor]] = [[] for _ in self.groups]

    @staticmethod
    def size_bytes(groups: Iterable[tuple[int, ...]], width: Mapping[int, int]) -> int:
        """Memory that groups of points need: the products of each point with itself and the later ones."""
        return sum(8 * width[group[0]] ** 2 * len(group) * (len(group) + 1) // 2 for group in groups)

    def update(self, rows: Mapping[int, Tensor], ids: Tensor) -> None:
        """Add rows: each point's [rows, width], and the number of each row."""
        dtype = torch.float64 if self.exact else torch.float32
        for g, group in enumerate(self.groups):
            x = torch.cat([rows[p].to(dtype) for p in group], 1)
            if not len(x):
                continue
            if g not in self._products:
                self._begin(g, x.mean(0).double())
            self._count[g] += len(x)
            shift, sums, _ = self._on(g, x.device)
            if self.exact or len(x) < ENOUGH_ROWS:
                x = x.double() - shift
                sums += x.sum(0)
            else:  # products about the batch's mean, then the mean itself as one row that weighs as much as the batch
                num, mean = len(x), x.mean(0)
                x -= mean
                self._add(g, x)
                rest = mean.double() - shift + x.sum(0, dtype=torch.float64) / num
                sums += num * rest
                x = num**0.5 * rest[None]
            self._waiting[g].append(x)
            if sum(map(len, self._waiting[g])) >= ENOUGH_ROWS:
                self._settle(g)

    def _settle(self, g: int) -> None:
        """Take the products of the rows that wait, which are counted already."""
        waiting, self._waiting[g] = self._waiting[g], []
        if waiting:
            self._add(g, torch.cat(waiting) if len(waiting) > 1 else waiting[0])

    def _add(self, g: int, x: Tensor) -> None:
        x = x if fits_single(x) else x.double()
        for a, strip in self._strips(g):
            strip += x[:, a : a + len(strip)].T @ x[:, a:]

    def _begin(self, g: int, shift: Tensor) -> None:
        num, width = len(self.groups[g]), len(shift) // len(self.groups[g])
        self._shift[g], self._sums[g] = shift, torch.zeros_like(shift)
        self._products[g] = shift.new_zeros(width * width * num * (num + 1) // 2)

    def _on(self, g: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Shift, sums and products where the rows are; they stay there."""
        self._shift[g], self._sums[g], self._products[g] = (
            t.to(device) for t in (self._shift[g], self._sums[g], self._products[g])
        )
        return self._shift[g], self._sums[g], self._products[g]

    def _strips(self, g: int) -> Iterator[tuple[int, Tensor]]:
        """For each point its first column a, and a view [width, columns from a on] of its products."""
        width, done = len(self._sums[g]) // len(self.groups[g]), 0
        for a in range(0, len(self._sums[g]), width):
            size = width * (len(self._sums[g]) - a)
            yield a, self._products[g][done : done + size].view(width, -1)
            done += size

    def _recentre(self, g: int, shift: Tensor) -> None:
        """Say the same about another shift."""
        gap, sums = self._shift[g] - shift, self._sums[g]
        self._shift[g], self._sums[g] = shift.clone(), sums + float(self._count[g]) * gap
        for a, strip in self._strips(g):
            own = slice(a, a + len(strip))
            strip.addr_(sums[own], gap[a:]).addr_(gap[own], self._sums[g][a:])

    def merge(self, other: "Moments") -> None:
        """Add what another has seen (and leave it saying the same about this one's shift)."""
        for g in range(len(self.groups)):
            self._settle(g)
            other._settle(g)
            if g in other._products:
                if g not in self._products:
                    self._begin(g, other._shift[g].clone())
                other._recentre(g, self._on(g, other._shift[g].device)[0])
                self._sums[g] += other._sums[g]
                self._products[g] += other._products[g]
                self._count[g] += other._count[g]

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Add up what all processes have seen, in each."""
        for g in range(len(self.groups)):
            self._settle(g)
            own = self._shift.get(g)
            shift = next((s for s in gather(None if own is None else own.cpu()) if s is not None), None)
            if shift is None:
                continue
            if own is None:
                self._begin(g, shift)
            else:
                self._recentre(g, shift.to(own.device))
            add_(self._sums[g])
            add_(self._products[g])
        add_(self._count)

    def pair(self, x: int, y: int) -> Pair:
        """The moments of points x < y, on the CPU. Raises KeyError when they were not watched together."""
        for g, group in enumerate(self.groups):
            if x in group and y in group and self._count[g]:
                return self._pair(g, group.index(x), group.index(y))
        raise KeyError(f"Points {x} and {y} were not watched together.")

    def _pair(self, g: int, i: int, j: int) -> Pair:
        self._settle(g)
        count, sums, strips = float(self._count[g]), self._sums[g].cpu(), [strip for _, strip in self._strips(g)]
        width = len(sums) // len(strips)

        def of(vector: Tensor, k: int) -> Tensor:
            return vector[k * width : (k + 1) * width]

        def product(a: int, b: int) -> Tensor:
            return of(strips[a].mT, b - a).mT.cpu() - torch.outer(of(sums, a), of(sums, b)) / count

        mean = self._shift[g].cpu() + sums / count
        rounding = 16 * torch.finfo(torch.float64 if self.exact else torch.float32).eps
        return Pair(count, of(mean, i), of(mean, j), product(i, i), product(i, j), product(j, j), rounding)

    @property
    def num_rows(self) -> int:
        """Rows seen, at the point that saw most."""
        return int(self._count.max()) if len(self._count) else 0

    def state(self) -> dict[str, Tensor]:
        """The sums as tensors, to be saved and loaded again."""
        state = {"count": self._count.clone()}
        for g in range(len(self.groups)):
            self._settle(g)
            if g in self._products:
                state |= {
                    f"shift.{g}": self._shift[g].cpu(),
                    f"sums.{g}": self._sums[g].cpu(),
                    f"products.{g}": self._products[g].cpu(),
                }
        return state

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""

        def read(name: str) -> dict[int, Tensor]:
            return {g: state[f"{name}.{g}"].clone() for g in range(len(self.groups)) if f"{name}.{g}" in state}

        self._count = state["count"].clone()
        self._shift, self._sums, self._products = read("shift"), read("sums"), read("products")
        self._waiting = [[] for _ in self.groups]
