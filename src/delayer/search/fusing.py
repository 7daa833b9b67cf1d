"""What can merge in a network: edits to make, and what is refused, with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from delayer.edits.fuse import Fuse
from delayer.merging import growth, merge
from delayer.merging.reading import is_affine, passes, rank_of
from delayer.merging.regions import Region, regions
from delayer.merging.surgery import check_rewritable
from delayer.merging.tracing import trace
from delayer.merging.verdict import Refusal, Repair
from delayer.network.calling import Inputs, call, evaluating
from delayer.network.chain import Chain
from delayer.network.hooks import hooked

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


def fusions(
    chain: Chain,
    example: Inputs,
    *,
    repairs: Sequence[Repair] = REPAIRS,
    most: float = 1.5,
    kernels: int | None = None,
    paths: Sequence[str] | None = None,
) -> tuple[list[Fuse], list[Refused]]:
    """Every exact merge inside some modules, as the network stands now, and what is refused.

    A part is merged as a whole, with its shortcut, by the first repair that makes it exact; where none does, each run
    of its layers; and where that is refused too, the longest pieces that merge as they are (norms fold at the least).
    With repairs=("none",) there is nothing but what merges as it is.
    example: inputs of a small batch, which tell the sizes of images.
    most: multiply-adds that a merge may take at most, as a multiple of those before; pieces never take more than before.
    kernels: linear layers and convolutions that become one at most; 1 folds norms alone.
    Nothing is measured: whether a merge is faster is for others to say (`Fuse.forms` gives both).
    paths: modules to look into; by default the blocks, and the container of blocks that are single layers.
    """
    chosen = _owners(chain) if paths is None else list(paths)
    search = _Search(chain.model, _Allowed(repairs, most, kernels), _shapes(chain, example, chosen))
    for path in chosen:
        search.into(path)
    return search.found, search.refused


def _owners(chain: Chain) -> list[str]:
    """The modules whose forward passes run the blocks' layers: blocks first, then the containers of single layers."""
    blocks = [block.path for block in chain.blocks]
    layers = [path for path in blocks if is_affine(chain.model.get_submodule(path))]
    return [path for path in blocks if path not in layers] + list(dict.fromkeys(path.rpartition(".")[0] for path in layers))


@dataclass(frozen=True)
class _Allowed:
    """What a merge may be."""

    repairs: Sequence[Repair]
    most: float
    kernels: int | None


class _Search:
    """What was found so far, in the modules looked into."""

    def __init__(self, model: nn.Module, allowed: _Allowed, shapes: dict[nn.Module, tuple[int, ...]]):
        self.model, self.allowed, self.shapes = model, allowed, shapes
        self.found: list[Fuse] = []
        self.refused: list[Refused] = []
        self.claimed: set[nn.Module] = set()

    def into(self, path: str, report: bool = True) -> None:
        """Look into a module; where it, or one inside, cannot be traced, look into that one's own modules."""
        owner, before = self.model.get_submodule(path), len(self.found)
        try:
            traced = trace(owner)
        except Refusal as refusal:
            self.refused += [Refused(path, (), str(refusal))] * report
            self.inside(path)
            return
        for region in regions(owner, traced):
            if not self.claimed & set(region.part.layers):
                for one in _Tried(path, self.allowed, self.shapes).best(region):
                    if isinstance(one, Fuse):
                        self.claimed |= {owner.get_submodule(layer) for layer in one.layers}
                        self.found.append(one)
                    else:
                        self.refused.append(one)
        for inner, why in traced.closed:
            if report and len(self.found) == before:
                self.refused.append(Refused(path, (inner,), f"what is inside cannot be traced ({why})"))
            self.inside(f"{path}.{inner}" if path else inner)

    def inside(self, path: str) -> None:
        for name, child in self.model.get_submodule(path).named_children():
            if not is_affine(child) and any(True for _ in child.parameters()):
                self.into(f"{path}.{name}" if path else name, report=False)


@dataclass(frozen=True)
class _Tried:
    """Tries the merges of one module's parts."""

    path: str
    allowed: _Allowed
    shapes: dict[nn.Module, tuple[int, ...]]

    def best(self, region: Region) -> Iterator[Fuse | Refused]:
        """The merge of the whole part, or what can be done instead."""
        if _num_layers(region) + region.part.num_sums < 2 or not _num_layers(region):
            return
        edit, reason = self.tried(region, self.allowed)
        if edit is not None:
            yield edit
            return
        yield Refused(self.path, region.part.paths, reason)
        if region.part.rewrites:
            for leg in region.legs():
                yield from self.best(leg)
        else:
            yield from self.pieces(region)

    def pieces(self, region: Region) -> Iterator[Fuse]:
        start, num, allowed = 0, len(region.part.steps), replace(self.allowed, repairs=("none",), most=1.0)
        while start < num:
            longest = None
            for stop in range(start + 1, num + 1):
                piece = region.run(start, stop)
                if _num_layers(piece) > 1:
                    longest = self.tried(piece, allowed)[0] or longest
            if longest is not None:
                yield longest
            start += len(longest.layers) if longest is not None else 1

    def tried(self, region: Region, allowed: _Allowed) -> tuple[Fuse | None, str]:
        shape = next(
            (
                self.shapes[layer]
                for step, layer in zip(region.part.steps, region.part.layers, strict=True)
                if step.inputs == (0,) and layer in self.shapes
            ),
            (),
        )
        num = sum(rank_of(layer) is not None for layer in region.part.layers)
        if allowed.kernels is not None and num > allowed.kernels:
            return None, f"{num} layers would become one, and {allowed.kernels} are allowed"
        reasons: dict[str, str] = {}
        try:
            if region.part.rewrites:
                check_rewritable(region)
        except Refusal as refusal:
            return None, str(refusal)
        for repair in allowed.repairs:
            try:
                times = growth(region.part, repair, shape or None)
            except Refusal as refusal:
                reasons.setdefault(str(refusal), repair)
                continue
            if times > allowed.most:
                much = f"the one layer would take {times:.3g} times the multiply-adds, and {allowed.most:g} are allowed"
                reasons.setdefault(much, repair)
                continue
            tried = merge(region.part, repair, shape or None)
            if tried.module is not None:
                return Fuse(path=self.path, layers=region.part.paths, sums=region.part.num_sums, repair=repair, shape=shape), ""
            reasons.setdefault(tried.verdict.reason, repair)
        return None, "; ".join(why if repair == "none" else f"by {repair}, {why}" for why, repair in reasons.items())


def _num_layers(region: Region) -> int:
    return sum(1 for step, layer in zip(region.part.steps, region.part.layers, strict=True) if step.path and not passes(layer))


def _shapes(chain: Chain, example: Inputs, paths: Sequence[str]) -> dict[nn.Module, tuple[int, ...]]:
    """The shape of one sample's input to each layer, from one small forward pass."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if args and hasattr(args[0], "shape"):
            shapes.setdefault(module, tuple(args[0].shape[1:]))

    inner = {module: None for path in paths for module in chain.model.get_submodule(path).modules()}
    with evaluating(chain.model), hooked(before=[(module, note) for module in inner]):
        call(chain.model, example)
    return shapes
