"""Hidden units of a block, and those of other blocks beside them: what its last linear layer may choose its features from.

A hidden unit is one feature that the last layer reads, made of one row of each layer that feeds it (fc1; gate and up) by a
function of these rows alone. So units of a removed block can stand in a block that stays, as far as both read the stream through
norms that differ by a gain and a shift of each channel, which rows take up exactly.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from delayer.errors import ModelError
from delayer.network.inside_block import Run
from delayer.observing.stats.patch_moments import PatchMoments

AS_GOOD_AS_EQUAL = 1e-3
"""Share of its size by which what norms answer may be missed: rounding."""


@dataclass(frozen=True)
class Units:
    """Where a block's hidden units are made: paths of the layers that feed them, of the layer that reads them, of their norm."""

    feeds: tuple[str, ...]
    last: str
    norm: str


def units_of(block: nn.Module, run: Run) -> Units:
    """Where a block's hidden units are made, as one run of it shows. Raises ModelError where it shows none.

    Whether they are units, each made of its own rows alone, shows when more stand beside them (`Wider.check`).
    """
    last, _ = run.ending
    before = run.layers[: run.layers.index(last)]
    if last.norm or not before or not isinstance(block.get_submodule(last.path), nn.Linear):
        raise ModelError("Its last layer is no Linear behind another layer.")
    read, width = before[-1].read, last.read.shape[-1]
    feeds = [layer for layer in before if layer.read is read and layer.answer.shape[-1] == width]
    if before[-1] not in feeds or any(not isinstance(block.get_submodule(layer.path), nn.Linear) for layer in feeds):
        raise ModelError(f"{before[-1].path} does not give one feature for each that {last.path} reads.")
    return Units(tuple(layer.path for layer in feeds), last.path, _norm_of(block, read, run))


def _norm_of(block: nn.Module, read: Tensor, run: Run) -> str:
    """The path of the module that makes what is read from the stream; "" where it is the stream. Raises ModelError."""
    streams = [stream for stream in (run.rest, run.before) if stream is not None and stream.shape == read.shape]
    if any(torch.equal(stream, read) for stream in streams):
        return ""
    norms = [path for path, module in block.named_modules() if path and not list(module.children()) and list(module.parameters())]
    missed = {path: min(_missed(block.get_submodule(path), stream, read) for stream in streams) for path in norms if streams}
    best = min(missed, key=lambda path: missed[path], default="")
    if not best or missed[best] > AS_GOOD_AS_EQUAL:
        raise ModelError("What its hidden units read is not the stream behind a norm.")
    return best


def _missed(module: nn.Module, stream: Tensor, read: Tensor) -> float:
    """How far a module's answer to the stream is from what was read, a share of its size; infinite where it cannot answer."""
    if isinstance(module, nn.Linear):
        return math.inf
    try:
        with torch.no_grad():
            found = module(stream)
    except (RuntimeError, TypeError, ValueError):  # made for something else
        return math.inf
    if not isinstance(found, Tensor) or found.shape != read.shape:
        return math.inf
    return float((found.double() - read.double()).square().mean().sqrt() / read.double().square().mean().sqrt().clamp_min(1e-300))


class Wider:
    """A block's hidden units with those of other blocks behind them.

    block: the one that is to choose. donors: blocks of the same form. run: of the block, on some samples.
    last: weight [o, units] of the last layer, each unit with its own old column.
    Raises ModelError where the units of one cannot stand in the other.
    """

    def __init__(self, block: nn.Module, donors: Sequence[nn.Module], run: Run):
        self.block, self.units = block, units_of(block, run)
        self.hidden = run.ending[0].read
        stream = run.rest if run.rest is not None else run.before
        rows = [_rows(block, block, self.units, stream), *(_rows(block, donor, self.units, stream) for donor in donors)]
        self.feeds = [
            (torch.cat([weight for weight, _ in each]), _joined([bias for _, bias in each])) for each in zip(*rows, strict=True)
        ]
        self.last = torch.cat([_linear(each, self.units.last).weight.detach() for each in (block, *donors)], 1)

    @property
    def num_own(self) -> int:
        """How many units the block has of its own, and will have."""
        return _linear(self.block, self.units.last).in_features

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Inside, the block runs with all of the units."""
        layers = [_linear(self.block, path) for path in (*self.units.feeds, self.units.last)]
        before = [(layer.weight, layer.bias) for layer in layers]
        bias = layers[-1].bias
        try:
            for layer, (weight, shift) in zip(
                layers, [*self.feeds, (self.last, None if bias is None else bias.detach())], strict=True
            ):
                layer.weight = nn.Parameter(weight, requires_grad=False)
                layer.register_parameter("bias", None if shift is None else nn.Parameter(shift, requires_grad=False))
            yield
        finally:
            for layer, (weight, shift) in zip(layers, before, strict=True):
                layer.weight = weight
                layer.register_parameter("bias", shift)

    def check(self, run: Run) -> None:
        """Raises ModelError where a run with all units shows that they hang together; run: on the samples of the first one."""
        own = run.ending[0].read[..., : self.num_own]
        if not torch.allclose(own.float(), self.hidden.float(), rtol=1e-2, atol=1e-2 * float(self.hidden.float().std())):
            raise ModelError("Its hidden units change with those beside them.")

    def keep_(self, index: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Leave some units in the block, as many as it had, which its last layer reads by weight [o, units kept] and bias [o]."""
        with torch.no_grad():
            for path, (rows, shift) in zip(self.units.feeds, self.feeds, strict=True):
                layer = _linear(self.block, path)
                layer.weight.copy_(rows[index])
                if layer.bias is not None and shift is not None:
                    layer.bias.copy_(shift[index])
            last = _linear(self.block, self.units.last)
            last.weight.copy_(weight)
            if last.bias is not None:
                last.bias.copy_(bias)


def most_useful(moments: PatchMoments, weight: Tensor, num: int, *, ridge: float, bias: bool = True, steps: int = 3) -> Tensor:
    """Which features [num], in order, a linear layer needs most to answer its targets.

    Those are given up whose loss, with the others solved anew, costs least: ‖w‖² / [(S + λP)⁻¹] of each, some at a time.
    moments: of all features and the targets. weight: W₀ [o, features], what the layer is pulled to. ridge: λ.
    Source: Optimal Brain Surgeon, Hassibi & Stork 1993, for the layer's own least squares.
    """
    _, _, xx, xy, _ = moments.about("mean" if bias else "zero")
    old = weight.detach().cpu().double().T
    energy = xx.diagonal()
    penalty = ((energy + energy.mean()) / 2 * ridge).clamp_min(1e-13 * max(float(energy.max()), 1e-300))
    keep = torch.arange(len(xx))
    share = -(-(len(xx) - num) // steps)
    while len(keep) > num:
        system = xx[keep][:, keep] + torch.diag(penalty[keep])
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system))
        solved = inverse @ (xy[keep] + penalty[keep, None] * old[keep])
        loss = solved.square().sum(1) / inverse.diagonal()
        keep = keep[loss.argsort(stable=True)[min(share, len(keep) - num) :].sort().values]
    return keep


def _rows(block: nn.Module, donor: nn.Module, units: Units, stream: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of a donor's feeding layers, so that they answer the same behind the block's norm as behind its own."""
    gain, shift = _gain_and_shift(block, donor, units, stream)
    found = []
    for path in units.feeds:
        mine, layer = _linear(block, path), _linear(donor, path)
        if layer.weight.shape != mine.weight.shape:
            raise ModelError(f"{path} has another shape there.")
        weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        if gain is not None and shift is not None:
            wide = weight.double()
            moved = wide @ shift
            if mine.bias is not None:
                bias = ((0 if bias is None else bias.double()) + moved).to(weight.dtype)
            elif float(moved.abs().max()) > 1e-5 * float(wide.abs().max()):
                raise ModelError(f"{path} has no bias, which would take up the shift of the other norm.")
            weight = (wide * gain).to(weight.dtype)
        found.append((weight, bias))
    return found


def _gain_and_shift(block: nn.Module, donor: nn.Module, units: Units, stream: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gain and shift [channels] in float64 from what the block's norm answers to what the donor's does; None where equal."""
    if block is donor or not units.norm:
        return None, None
    mine, other = (each.get_submodule(units.norm) for each in (block, donor))
    rows = stream.reshape(-1, stream.shape[-1])[:4096]
    with torch.no_grad():
        x, y = (norm(rows).double() for norm in (mine, other))
    dx, dy = x - x.mean(0), y - y.mean(0)
    gain = (dx * dy).sum(0) / dx.square().sum(0).clamp_min(1e-300)
    shift = y.mean(0) - gain * x.mean(0)
    if float((x * gain + shift - y).square().mean()) > AS_GOOD_AS_EQUAL**2 * float(y.square().mean()):
        raise ModelError("Their norms do not differ by a gain and a shift alone.")
    return gain, shift


def _joined(biases: Sequence[Tensor | None]) -> Tensor | None:
    found = [bias for bias in biases if bias is not None]
    if found and len(found) < len(biases):
        raise ModelError("Only some of the blocks have biases there.")
    return torch.cat(found) if found else None


def _linear(block: nn.Module, path: str) -> nn.Linear:
    try:
        found = block.get_submodule(path)
    except AttributeError as error:
        raise ModelError(f"It has no {path}.") from error
    if not isinstance(found, nn.Linear):
        raise ModelError(f"{path} is no Linear there.")
    return found
