"""How often each activation switches: states of its input per channel and batch, and the sums of its best linear fit."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from delayer.activations import BY_NAME, saturated

STATES = ("off", "zero", "on", "saturated")
"""z < 0, z = 0, z > 0 short of saturation, and beyond it."""


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
        state = torch.where(saturated(BY_NAME[self.kind], z), 3, z.sign().long() + 1)
        chunk = samples.to(z.device) // self.batch_size
        for number in chunk.unique().tolist():
            rows = state[chunk == number]
            counts = torch.stack([(rows == k).sum(0) for k in range(len(STATES))]).cpu()
            self._chunks[number] = self._chunks.get(number, 0) + counts
        z, y = (t.double() if t.device.type != "mps" else t.cpu().double() for t in (z, y))
        sums = torch.stack([z.sum(0), (z * z).sum(0), y.sum(0), (y * z).sum(0), (y * y).sum(0)]).cpu()
        self._sums = sums if self._sums is None else self._sums + sums

    @property
    def num_rows(self) -> int:
        return int(self.counts()[:, 0].sum()) if self._chunks else 0

    def counts(self) -> Tensor:
        """How often each channel was in each state [states, channels], over everything seen."""
        return self.counts_by_chunk().sum(0)

    def counts_by_chunk(self) -> Tensor:
        """The same [chunks, states, channels], chunk by chunk in the samples' order."""
        return torch.stack([self._chunks[k] for k in sorted(self._chunks)])

    def mean(self) -> Tensor:
        """Of the inputs [channels]."""
        return self._sums[0] / self.num_rows

    def deviation(self) -> Tensor:
        """Standard deviation of the inputs [channels]; 0 where a channel is constant."""
        variance = self._sums[1] / self.num_rows - self.mean() ** 2
        return variance.clamp_min(0).sqrt()

    def best_line(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Scale, shift, residual and variance [channels] of the best fit y ≈ scale · z + shift, by least squares.

        residual and variance are means of squares: what the fit leaves of y, and what y varies. A channel whose input
        is constant gets scale 0 and the mean of y.
        """
        z, zz, y, yz, yy = self._sums / self.num_rows
        var_z, var_y, cov = zz - z * z, (yy - y * y).clamp_min(0), yz - y * z
        varies = var_z > 1e-12 * zz.clamp_min(1e-300)
        scale = torch.where(varies, cov / var_z.clamp_min(1e-300), 0.0)
        residual = torch.where(varies, var_y - scale * cov, var_y).clamp_min(0)
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
        sums = {} if self._sums is None else {"sums": self._sums}
        return sums | {f"chunk.{k}": counts for k, counts in self._chunks.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._sums = state.get("sums")
        self._chunks = {int(name.partition(".")[2]): value for name, value in state.items() if name.startswith("chunk.")}
