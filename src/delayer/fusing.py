"""What can merge in a network: edits to make, and what is refused, with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from delayer.algebra import merge
from delayer.algebra.reading import is_affine, passes
from delayer.algebra.regions import Region, regions, trace
from delayer.algebra.surgery import check_rewritable
from delayer.algebra.verdict import Refusal, Repair
from delayer.calling import Inputs, call, evaluating
from delayer.chain import Chain
from delayer.edits.fuse import Fuse

REPAIRS: tuple[Repair, ...] = ("none", "constant_channel", "border_strip")
"""Tried in this order: as it is first, then the cheaper repair. A bias map holds for one size of image, so it is asked for."""


@dataclass(frozen=True)
class Refused:
    """Layers that follow one another and yet do not become one."""

    path: str
    layers: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {', '.join(self.layers) or 'its layers'} stay: {self.reason}"


def fusions(chain: Chain, example: Inputs, *, repairs: Sequence[Repair] = REPAIRS, growth: float = 1.5,
            paths: Sequence[str] | None = None) -> tuple[list[Fuse], list[Refused]]:
    """Every exact merge inside some modules, as the network stands now, and what is refused.

    A part is merged as a whole, with its shortcut, by the first repair that makes it exact; where none does, each run
    of its layers; and where that is refused too, the longest pieces that merge as they are (norms fold at the least).
    With repairs=("none",) there is nothing but what merges as it is.
    example: inputs of a small batch, which tell the sizes of images.
    growth: most multiply-adds that a merge may take, as a multiple of those before; pieces never take more than before.
    Nothing is measured: whether a merge is faster is for others to say (`Fuse.forms` gives both).
    paths: modules to look into; by default the blocks, and the container of blocks that are single layers.
    """
    chosen = list(dict.fromkeys(_owner(chain, block.path) for block in chain.blocks)) if paths is None else list(paths)
    found: list[Fuse] = []
    refused: list[Refused] = []
    shapes = _shapes(chain, example, chosen)
    for path in chosen:
        try:
            traced = trace(chain.model.get_submodule(path))
        except Refusal as refusal:
            refused.append(Refused(path, (), str(refusal)))
            continue
        before = len(found)
        for region in regions(chain.model.get_submodule(path), traced):
            for one in _Tried(path, repairs, growth, shapes).best(region):
                (found if isinstance(one, Fuse) else refused).append(one)
        if len(found) == before:
            refused += [Refused(path, (inner,), f"what is inside cannot be traced ({why})") for inner, why in traced.closed]
    return found, refused


def _owner(chain: Chain, path: str) -> str:
    """The module whose forward pass runs a block's layers."""
    return path.rpartition(".")[0] if is_affine(chain.model.get_submodule(path)) else path


@dataclass(frozen=True)
class _Tried:
    """Tries the merges of one module's parts."""

    path: str
    repairs: Sequence[Repair]
    growth: float
    shapes: dict[nn.Module, tuple[int, ...]]

    def best(self, region: Region) -> Iterator[Fuse | Refused]:
        """The merge of the whole part, or what can be done instead."""
        if _num_layers(region) + region.part.num_sums < 2 or not _num_layers(region):
            return
        edit, reason = self.merge(region, self.repairs, self.growth)
        if edit is not None:
            yield edit
            return
        yield Refused(self.path, region.part.paths, reason)
        if region.part.num_sums:
            for leg in region.legs():
                yield from self.best(leg)
        else:
            yield from self.pieces(region)

    def pieces(self, region: Region) -> Iterator[Fuse]:
        start, num = 0, len(region.part.steps)
        while start < num:
            longest = None
            for stop in range(start + 1, num + 1):
                piece = region.run(start, stop)
                if _num_layers(piece) > 1:
                    longest = self.merge(piece, ("none",), 1.0)[0] or longest
            if longest is not None:
                yield longest
            start += len(longest.layers) if longest is not None else 1

    def merge(self, region: Region, repairs: Sequence[Repair], growth: float) -> tuple[Fuse | None, str]:
        shape = next((self.shapes[layer] for step, layer in zip(region.part.steps, region.part.layers, strict=True)
                      if step.inputs == (0,) and layer in self.shapes), ())
        reasons = []
        try:
            if region.part.num_sums:
                check_rewritable(region)
        except Refusal as refusal:
            return None, str(refusal)
        for repair in repairs:
            tried = merge(region.part, repair, shape or None)
            if tried.module is None:
                reasons.append(tried.verdict.reason)
            elif tried.growth > growth:
                reasons.append(f"the one layer would take {tried.growth:.3g} times the multiply-adds")
            else:
                return Fuse(path=self.path, layers=region.part.paths, sums=region.part.num_sums, repair=repair,
                            shape=shape), ""
        return None, reasons[-1]


def _num_layers(region: Region) -> int:
    return sum(1 for step, layer in zip(region.part.steps, region.part.layers, strict=True)
               if step.path and not passes(layer))


def _shapes(chain: Chain, example: Inputs, paths: Sequence[str]) -> dict[nn.Module, tuple[int, ...]]:
    """The shape of one sample's input to each layer, from one small forward pass."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, args: tuple) -> None:
        if args and hasattr(args[0], "shape"):
            shapes.setdefault(module, tuple(args[0].shape[1:]))

    inner = {module: None for path in paths for module in chain.model.get_submodule(path).modules()}
    handles = [module.register_forward_pre_hook(note) for module in inner]
    try:
        with evaluating(chain.model):
            call(chain.model, example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes
