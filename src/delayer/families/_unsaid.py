"""Outputs that held nothing in the probe, and that the next block takes: what is handed on there later is not known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from delayer.network.blocks import UNSAID, Block
from delayer.network.calling import Inputs, call, ready, seeded, unfused
from delayer.network.chain import Chain
from delayer.network.handing import arguments, each_item, items_of, together
from delayer.network.hooks import hooked


class _Marked(nn.Module):
    """A block that puts a mark where its answer holds nothing."""

    def __init__(self, block: nn.Module, marks: dict[str, object]):
        super().__init__()
        self.block, self.marks = block, marks

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args, **kwargs) -> Any:
        answer = each_item(self.block(*args, **kwargs), Tensor.clone)
        found = items_of(answer)
        items = {item: self.marks.get(item) if value is None else value for item, value in found.items.items()}
        return together(found.form, items)


def with_unsaid(chain: Chain, example: Inputs) -> tuple[Block, ...]:
    """The chain's blocks, of which those that answered None where the next block takes an argument say which argument that is.

    A stand-in then refuses to run once that argument is there. One forward pass for each class of blocks with such answers.
    """
    empty = _empty(chain, example)
    found: dict[type, dict[str, str]] = {}
    with ready(chain.model, example) as inputs, unfused():
        for index, items in empty.items():
            kind = type(chain.module(index))
            if kind not in found and index + 1 < chain.num_blocks:
                found[kind] = _taken(chain, index, items, inputs)
    blocks = list(chain.blocks)
    for index, items in empty.items():
        taken = found.get(type(chain.module(index)), {})
        passes = dict(zip(blocks[index].items, blocks[index].passes or ("",) * blocks[index].returns, strict=True))
        passes |= {item: f"{UNSAID}{taken[item]}" for item in items if item in taken}
        if any(passes.values()):
            blocks[index] = replace(blocks[index], passes=tuple(passes.values()))
    return tuple(blocks)


def _empty(chain: Chain, example: Inputs) -> dict[int, list[str]]:
    """For each block with None in its answer, the places of it."""
    empty: dict[int, list[str]] = {}

    def leave(index: int) -> Callable:
        def hook(module, args, output):
            if places := [item for item, value in items_of(output).items.items() if value is None]:
                empty[index] = places

        return hook

    after = [(chain.module(index), leave(index)) for index in range(chain.num_blocks)]
    with hooked(after=after), ready(chain.model, example) as inputs, seeded():
        call(chain.model, inputs)
    return empty


def _taken(chain: Chain, index: int, items: list[str], inputs: Inputs) -> dict[str, str]:
    """For each of a block's empty outputs that another block takes, the place of that argument."""
    marks, taken = {item: object() for item in items}, {}

    def enter(number: int) -> Callable:
        def hook(module, args, kwargs):
            for place, value in arguments(args, kwargs).items() if number != index else ():
                taken.update({item: place for item, mark in marks.items() if value is mark})

        return hook

    before = [(chain.module(number), enter(number)) for number in range(chain.num_blocks)]
    try:
        with hooked(before=before), chain.restored(), seeded():
            chain.replace_(index, _Marked(chain.module(index), marks).eval())
            call(chain.model, inputs)
    except Exception:  # noqa: S110  a network may well not run on marks, once it has taken them
        pass
    return taken
