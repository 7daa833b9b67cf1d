"""Which blocks the rest of a network can do without, but for their hidden state.

A stand-in that answers what the block answered must change nothing. Where the network answers otherwise all the same, or does not
run any more, something else of the block reaches the rest of it: an output that the block computes, a part that the parent reads,
a state that others read. Such a block has to stay, whatever a metric says of its hidden state.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from delayer.libraries import first_line
from delayer.modules.stand_in import StandIn
from delayer.network.blocks import Block
from delayer.network.calling import Inputs, call, hidden_in, ready, seeded, unfused
from delayer.network.chain import Chain
from delayer.network.handing import apart, each_item, items_of
from delayer.network.hooks import hooked

OTHERWISE = "the network answers otherwise without it, though its hidden state is the same: something else of it is read"


@dataclass
class Recorded:
    """What a block answered, whether it wrote its hidden state into its input, and where it left the random numbers."""

    answer: Any
    hidden: Tensor
    in_place: bool
    drawn: Tensor | None


class _Again(nn.Module):
    """Says the hidden state again that a block said, or its whole answer."""

    def __init__(self, recorded: Recorded, *, whole: bool = False):
        super().__init__()
        self.recorded, self.whole = recorded, whole

    def forward(self, *args, **kwargs) -> Any:
        if self.recorded.drawn is not None:
            torch.set_rng_state(self.recorded.drawn)
        if self.whole:
            return each_item(self.recorded.answer, Tensor.clone)
        return args[0].copy_(self.recorded.hidden) if self.recorded.in_place else self.recorded.hidden.clone()


def with_reasons(chain: Chain, example: Inputs) -> tuple[Block, ...]:
    """The chain's blocks, of which those that the network cannot do without are no longer removable and say why.

    Where nothing is amiss it costs about log₂ of the number of blocks in forward passes: of any two blocks one is replaced
    without the other in one of the sets, so that what the one hands the other by another way shows. Else one or two a block.
    """
    able = [i for i, block in enumerate(chain.blocks) if block.removable]
    reasons: dict[int, str] = {}
    free: list[int] = []
    with ready(chain.model, example) as inputs, unfused():
        recorded, answer = _recorded(chain, able, inputs)

        def fault(gone: Collection[int]) -> Exception | str | None:
            return _fault(
                chain, {i: StandIn(chain.module(i), chain.blocks[i], _Again(recorded[i])) for i in gone}, inputs, answer
            )

        # A network that differs from itself, twice on the same data and seed, tells nothing.
        if all(fault(group) is None for group in _groups(able)) or fault(()) is not None:
            return chain.blocks
        for index in able:
            if (found := fault([index])) is not None:
                again = _fault(chain, {index: _Again(recorded[index], whole=True)}, inputs, answer)
                reasons[index] = _reason(chain.blocks[index], found, outputs_do=again is None)
            elif fault([*free, index]) is not None:
                reasons[index] = "the network answers otherwise without it and blocks before it at once"
            else:
                free.append(index)
    return tuple(
        replace(block, removable=False, stays=reasons[i]) if i in reasons else block for i, block in enumerate(chain.blocks)
    )


def _groups(indices: list[int]) -> list[list[int]]:
    """Sets such that each index, and of any two indices each without the other, is in one of them."""
    bits = max(1, (len(indices) - 1).bit_length())
    halves = [[i for k, i in enumerate(indices) if (k >> bit & 1) == side] for bit in range(bits) for side in (0, 1)]
    return [half for half in halves if half]


def _recorded(chain: Chain, indices: list[int], inputs: Inputs) -> tuple[dict[int, Recorded], Any]:
    """What each block says in one pass, and the network's answer."""
    recorded: dict[int, Recorded] = {}
    begun: dict[int, tuple] = {}

    def enter(index: int) -> Callable:
        def hook(module, args, kwargs):
            before = hidden_in(args, kwargs, chain.blocks[index].takes)
            begun[index] = before, before._version, torch.get_rng_state()

        return hook

    def leave(index: int) -> Callable:
        def hook(module, args, output):
            (before, version, state), now, gives = begun.pop(index), torch.get_rng_state(), chain.blocks[index].gives
            given = items_of(output).items[gives]
            in_place = given.data_ptr() == before.data_ptr() and given.shape == before.shape and before._version > version
            kept = each_item(output, Tensor.clone)
            recorded[index] = Recorded(kept, items_of(kept).items[gives], in_place, None if torch.equal(now, state) else now)

        return hook

    before = [(chain.module(index), enter(index)) for index in indices]
    after = [(chain.module(index), leave(index)) for index in indices]
    with hooked(before=before, after=after), seeded():
        answer = each_item(call(chain.model, inputs), Tensor.clone)
    return recorded, answer


def _fault(chain: Chain, modules: Mapping[int, nn.Module], inputs: Inputs, answer: Any) -> Exception | str | None:
    """What is amiss with the network's answer when modules stand where blocks stood; None where it is the same."""
    with chain.restored(), seeded():
        for index, module in modules.items():
            chain.replace_(index, module.eval())
        try:
            found = call(chain.model, inputs)
        except Exception as error:  # whatever a network raises that misses one of its blocks
            return error
    return None if _alike(answer, found) else OTHERWISE


def _alike(one: Any, other: Any, *, inside: bool = False) -> bool:
    """Whether two answers hold the same tensors.

    Lists in a record of a library are left out: they hold one tensor a layer, for whoever wants to look, and get shorter with
    the network. So are objects that are neither tensors nor containers, such as caches.
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.is_nested:
            return one.shape == other.shape if not one.is_nested else True
        one, other = one.double(), other.double()
        scale = float(one.abs().max()) if one.numel() else 0.0
        return torch.allclose(one, other, rtol=0, atol=1e-6 * scale if scale < float("inf") else 0, equal_nan=True)
    mine, theirs = apart(one), apart(other)
    if mine is None or theirs is None:
        return (mine is None) == (theirs is None)
    library = is_dataclass(one) and isinstance(one, Mapping) and not inside
    skipped = {name for name, item in mine.items.items() if library and isinstance(item, tuple | list)}
    return mine.items.keys() == theirs.items.keys() and all(
        _alike(item, theirs.items[name], inside=True) for name, item in mine.items.items() if name not in skipped
    )


def _reason(block: Block, fault: Exception | str, *, outputs_do: bool) -> str:
    """Why a block has to stay, as a clause."""
    if outputs_do and block.returns > 1:
        own = [place for k, place in enumerate(block.items) if k != block.hidden and not (block.passes[k : k + 1] or ("",))[0]]
        return f"the network reads {' or '.join(f'output {place}' for place in own)} of it, which it computes itself"
    if isinstance(fault, AttributeError):
        return f"the network reads a part of it ({first_line(fault).rstrip('.')})"
    if isinstance(fault, Exception):
        return f"the network does not run without it ({type(fault).__name__}: {first_line(fault).rstrip('.')})"
    return fault
