"""How often each activation switches: states of its input per channel and batch, and the sums of its best linear fit."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from delayer.activations.kinds import BY_NAME
from delayer.activations.normal import Normal
from delayer.errors import DataError

STATES = ("off", "zero", "on", "above", "below")
"""z < 0, z = 0 and z > 0; then what lies on the outer pieces of a saturating activation (see `Activation`)."""


BLOCK = 1 << 17
"""Numbers that are summed at once on a CPU: as many as its cache holds, which is eight times as fast as all of them."""


def _in_blocks(f: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """The sum of a function over blocks of rows [n, channels]."""
    size = max(1, BLOCK // rows[0].shape[1]) if rows[0].device.type == "cpu" else len(rows[0])
    return reduce(torch.add, (f(*block) for block in zip(*(r.split(max(1, size)) for r in rows), strict=True)))


def _sums(z: Tensor, y: Tensor) -> Tensor:
    """Σz, Σz², Σy, Σyz and Σy² [5, channels]."""
    z, y = z.double(), y.double()
    return torch.stack([z.sum(0), (z * z).sum(0), y.sum(0), (y * z).sum(0), (y * y).sum(0)])


class Switches:
    """Counts and sums of one activation, y = ψ(z), per channel.

    kind: the activation's name. batch_size: samples a chunk; published entropies are means over batches, so rows are
    re-chunked by sample number, and any loader gives the same.
    """

    def __init__(self, kind: str, batch_size: int = 128):
        self.kind, self.batch_size = kind, batch_size
        self._chunks: dict[int, Tensor] = {}
        self._sums: Tensor | None = None

    def update(self, z: Tensor, y: Tensor, samples: Tensor) -> None:
        """Add rows: inputs and outputs [n, channels], and the number of each row's sample [n]."""
        chunk = samples // self.batch_size
        for number in chunk.unique().tolist():
            mine = chunk == number
            counts = _in_blocks(self._counts, z if mine.all() else z[mine.to(z.device)])
            self._chunks[number] = self._chunks.get(number, 0) + counts.cpu()
        # Sums are in float64, which Apple's accelerator lacks.
        sums = _in_blocks(_sums, *((z.cpu(), y.cpu()) if z.device.type == "mps" else (z, y))).cpu()
        self._sums = sums if self._sums is None else self._sums + sums

    def _counts(self, z: Tensor) -> Tensor:
        state = self._states(z)
        return torch.stack([(state == k).sum(0) for k in range(len(STATES))])

    def _states(self, z: Tensor) -> Tensor:
        """The index into STATES of each input."""
        kind, state = BY_NAME[self.kind], z.sign().to(torch.int8) + 1
        if kind.above is not None:
            state = state.masked_fill(z >= kind.above, 3)
        return state if kind.below is None else state.masked_fill(z <= kind.below, 4)

    @property
    def num_rows(self) -> int:
        """Inputs of the first channel that were counted."""
        return int(self.counts()[:, 0].sum()) if self._chunks else 0

    def counts(self) -> Tensor:
        """How often each channel was in each state [states, channels], over everything seen."""
        return self.counts_by_chunk().sum(0)

    def counts_by_chunk(self) -> Tensor:
        """The same [chunks, states, channels], chunk by chunk in the samples' order."""
        return torch.stack([self._chunks[k] for k in sorted(self._chunks)])

    def normal(self) -> Normal:
        """Mean and deviation of the inputs [channels]; deviation 0 where a channel is constant."""
        z, zz, *_ = self._means()
        return Normal(z, self._variance(z, zz).sqrt())

    def _means(self) -> Tensor:
        """E[z], E[z²], E[y], E[yz] and E[y²] [5, channels]. Raises DataError where nothing was seen."""
        if self._sums is None:
            raise DataError(f"No input of this {self.kind} was seen, so it has no mean. Give it at least one row.")
        return self._sums / self.num_rows

    @staticmethod
    def _variance(z: Tensor, zz: Tensor) -> Tensor:
        """Exactly 0 where what is left of E[z²] − E[z]² is rounding."""
        variance = zz - z * z
        return torch.where(variance > 1e-12 * zz, variance, 0.0)

    def mostly_on(self) -> Tensor:
        """Channels [channels] whose input is above zero at least as often as below."""
        off, _, on, above, below = self.counts()
        return on + above >= off + below

    def best_line(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, shift, residual and variance [channels] of the best fit y ≈ scale · z + shift, by least squares.

        residual and variance are means of squares: what the fit leaves of y, and what y varies. Where the output is
        constant the line is level; where the input is, any line through its one point is best, and it passes if it can.
        """
        z, zz, y, yz, yy = self._means()
        var_z, var_y, cov = self._variance(z, zz), self._variance(y, yy), yz - y * z
        varies, passed = (var_z > 0) & (var_y > 0), (y == z) & (yz == zz)
        scale = torch.where(passed, 1.0, torch.where(varies, cov / var_z.clamp_min(1e-300), 0.0))
        residual = torch.where(passed, 0.0, torch.where(varies, var_y - scale * cov, var_y)).clamp_min(0)
        return scale, y - scale * z, residual, var_y

    def merge(self, other: "Switches") -> None:
        """Add what another one has seen."""
        self._add(other._seen())

    def _seen(self) -> tuple[dict[int, Tensor], Tensor | None]:
        return dict(self._chunks), self._sums

    def _add(self, seen: tuple[dict[int, Tensor], Tensor | None]) -> None:
        chunks, sums = seen
        for number, counts in chunks.items():
            self._chunks[number] = self._chunks.get(number, 0) + counts
        if sums is not None:
            self._sums = sums.clone() if self._sums is None else self._sums + sums

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Give every process what all of them have seen."""
        seen = gather(self._seen())
        self._chunks, self._sums = {}, None
        for one in seen:
            self._add(one)

    def state(self) -> dict[str, Tensor]:
        """The counts as tensors, to be saved and loaded again."""
        sums = {} if self._sums is None else {"sums": self._sums}
        return sums | {f"chunk.{k}": counts for k, counts in self._chunks.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._sums = state.get("sums")
        self._chunks = {int(name.partition(".")[2]): value for name, value in state.items() if name.startswith("chunk.")}
