"""A view of a model as a chain of blocks, with the points between them; it owns no weights.

Block i takes point `inlet` to point `outlet`. Where neighbours hand over the very same tensor, the outlet of one is
the inlet of the next; where the parent does something between them (a patch merging, say), they are two points.
Blocks keep their original numbers for ever, also while a cut is under way.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from typing import Any

from torch import nn

from delayer.errors import ModelError, SpanError
from delayer.network.blocks import Block, Family, Segment, Span


class Chain:
    """The blocks, points and segments of a model.

    model: the network itself; `replace_` and `compact_` change it.
    family: the facts of its kind.
    blocks: one record a block, in original numbering.
    hollow: the weights are still to be filled in, so that edits build shapes and check no values.
    """

    hollow = False

    def __init__(self, model: nn.Module, family: Family, blocks: Sequence[Block]):
        self.model, self.family, self.blocks = model, family, tuple(blocks)
        self._compacted = False

    def _check_numbers(self) -> None:
        """Raises ModelError once blocks have left the network: by number, a block would be another one."""
        if self._compacted:
            raise ModelError(
                f"Blocks have been taken out of this {type(self.model).__name__}, so the block numbers of its chain are void. "
                "Look at what is left with chain_of(model), or cut a copy with apply(chain, plan), which leaves the chain whole."
            )

    @property
    def axis(self) -> int:
        """Where the features of hidden states are: -1 for tokens, 1 for images."""
        if self.family.axis is None:
            raise ModelError(
                f"The family {self.family.name} leaves the axis of features open; chain_of(model) tells it from shapes."
            )
        return self.family.axis

    @property
    def num_blocks(self) -> int:
        """How many blocks the network had when it was looked at."""
        return len(self.blocks)

    @property
    def num_points(self) -> int:
        """How many points lie between and around the blocks."""
        return 1 + max((block.outlet for block in self.blocks), default=-1)

    def copy(self) -> "Chain":
        """The same view of a copy of the network."""
        self._check_numbers()
        return Chain(deepcopy(self.model), self.family, self.blocks)

    def __repr__(self) -> str:
        if self._compacted:
            return f"Chain({self.family.name}, {self.num_blocks} blocks, of which some have been taken out)"
        runs = ", ".join(f"{s.start}:{s.stop} (width {s.width})" for s in self.segments)
        kept = [(i, block.stays) for i, block in enumerate(self.blocks) if block.stays]
        why = "".join(f"; block {i} stays: {reason}" for i, reason in kept[:1])
        more = f"; so do {len(kept) - 1} more" if len(kept) > 1 else ""
        return f"Chain({self.family.name}, {self.num_blocks} blocks; removable runs: {runs or 'none'}{why}{more})"

    def describe(self) -> str:
        """What was found: a line for each run of blocks that can be cut, and one for each block."""
        starts = {segment.start: segment for segment in self.segments}
        name = f"{type(self.model).__name__} ({self.family.name})"
        lines = [f"{name}: {self.num_blocks} blocks, features on axis {self.axis}"]
        for i, block in enumerate(self.blocks):
            if i in starts:
                lines.append(f"run {i}:{starts[i].stop} of width {block.in_width}")
            params = sum(p.numel() for p in self.module(i).parameters())
            shape = f", stays: {block.in_width} to {block.out_width} features, other shape"
            shape = "" if block.removable else f", stays: {block.stays}" if block.stays else shape
            lines.append(f"{i:4d}  {block.path}  {block.kind}, {params:,} parameters{shape}")
        return "\n".join(lines)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Maximal runs of removable blocks that follow one another without anything in between."""
        found: list[list[int]] = []
        for i, block in enumerate(self.blocks):
            if not block.removable:
                continue
            joined = found and found[-1][-1] == i - 1 and self.blocks[i - 1].outlet == block.inlet
            if joined:
                found[-1].append(i)
            else:
                found.append([i])
        return tuple(
            Segment(
                run[0],
                run[-1] + 1,
                self.blocks[run[0]].in_width,
                (self.blocks[run[0]].inlet, *(self.blocks[i].outlet for i in run)),
            )
            for run in found
        )

    @property
    def point_labels(self) -> tuple[str, ...]:
        """A label a point: "in" before a block that reads a point of its own, and the block's number after each block."""
        labels = [""] * self.num_points
        for i, block in enumerate(self.blocks):
            labels[block.inlet] = labels[block.inlet] or ("in" if i == 0 else f"in {i}")
            labels[block.outlet] = str(i)
        return tuple(labels)

    def module(self, index: int) -> nn.Module:
        """The module of a block."""
        self._check_numbers()
        return self.model.get_submodule(self.blocks[index].path)

    def weight(self, index: int) -> int:
        """How much a block counts in a budget of blocks: 1, or 0 for one without parameters."""
        return int(any(True for _ in self.module(index).parameters()))

    def spans(self) -> Iterator[Span]:
        """Every span that may be cut."""
        for segment in self.segments:
            for start in range(segment.start, segment.stop):
                for stop in range(start + 1, segment.stop + 1):
                    yield Span(start, stop)

    def reach(self, index: int, gone: Collection[int]) -> int:
        """The last of the blocks in `gone` that follow a block without anything in between, or the block itself."""
        while index + 1 in gone and self.blocks[index].outlet == self.blocks[index + 1].inlet:
            index += 1
        return index

    def ends(self, span: Span) -> tuple[int, int]:
        """The points that a span takes one to the other."""
        return self.blocks[span.start].inlet, self.blocks[span.stop - 1].outlet

    def check(self, span: Span) -> Segment:
        """The segment that a span lies in. Raises SpanError, naming spans that would do, when it lies in none."""
        self._check_numbers()
        if span.stop > self.num_blocks:
            raise SpanError(
                f"Span {span} ends behind the last block: this network has {self.num_blocks} blocks, "
                f"0 to {self.num_blocks - 1}. Use a span up to {self.num_blocks}."
            )
        for segment in self.segments:
            if segment.start <= span.start and span.stop <= segment.stop:
                return segment
        inside = [
            str(Span(max(span.start, s.start), min(span.stop, s.stop)))
            for s in self.segments
            if max(span.start, s.start) < min(span.stop, s.stop)
        ]
        first, last = self.blocks[span.start], self.blocks[span.stop - 1]
        advice = f"Use {' and '.join(inside)}." if inside else "No block in it keeps its width; choose another span."
        if kept := next((block for block in self.blocks[span.start : span.stop] if block.stays), None):
            advice = f"Use {' and '.join(inside)}." if inside else "Choose another span."
            raise SpanError(f"Span {span} holds {kept.path} ({kept.kind}), which has to stay: {kept.stays}. {advice}")
        raise SpanError(
            f"Span {span} runs from {first.path} (width {first.in_width}) to {last.path} (width {last.out_width}) "
            f"and crosses a change of shape. {advice}"
        )

    def replace_(self, index: int, module: nn.Module) -> nn.Module:
        """Put a module where a block stands, and get the old one back."""
        old = self.module(index)
        self.model.set_submodule(self.blocks[index].path, module)
        return old

    @contextmanager
    def restored(self) -> Iterator["Chain"]:
        """Whatever is replaced inside is put back at the end, also after an exception."""
        modules = [self.module(i) for i in range(self.num_blocks)]
        try:
            yield self
        finally:
            for i, module in enumerate(modules):
                self.replace_(i, module)

    def compact_(self, gone: set[int]) -> None:
        """Take the blocks in `gone` out of their lists, renumber the survivors, and mend the configuration.

        A block that stands in no list (an attribute of its own) keeps its pass-through, and so do all of a family that
        does not shorten. Where blocks left, the chain's block numbers are void afterwards, and using them raises.
        """
        self._check_numbers()
        if not self.family.shortens:
            return
        kept: dict[str, list[int]] = {}
        left_list = False
        for path in dict.fromkeys(block.path.rpartition(".")[0] for block in self.blocks):
            container = self.model.get_submodule(path)
            if not isinstance(container, (nn.Sequential, nn.ModuleList)):
                continue
            doomed = {
                b.path.rpartition(".")[2] for i, b in enumerate(self.blocks) if i in gone and b.path.rpartition(".")[0] == path
            }
            items = list(container._modules.items())
            left = [(name, module) for name, module in items if name not in doomed]
            numbered = all(name.isdigit() for name, _ in items)
            container._modules.clear()
            container._modules.update({str(k) if numbered else name: m for k, (name, m) in enumerate(left)})
            left_list = left_list or len(left) < len(items)
            kept[path] = [k for k, (name, _) in enumerate(items) if name not in doomed]
        if self.family.recount_:
            self.family.recount_(self.model, kept)
        if left_list:
            self._compacted = True

    def facts(self) -> dict[str, Any]:
        """The chain as plain data, enough to view another copy of the same network."""
        blocks = [
            {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(block).items()}
            for block in self.blocks
        ]
        return {"family": self.family.name, "axis": self.axis, "rows": self.family.rows, "blocks": blocks}
