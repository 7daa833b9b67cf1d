"""Milliseconds of each block, and what a span's replacement would save of them."""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

from delayer.errors import PlanError
from delayer.fitting.operators import Operator
from delayer.network.calling import Inputs, call, first_tensor, hidden_in, ready
from delayer.network.chain import Chain
from delayer.network.hooks import hooked
from delayer.study import SpanDamage


@dataclass(frozen=True)
class Profile:
    """Milliseconds of each block, of the whole network, and of each operator's map by (block, the operator's title).

    The least of several rounds each: other work on the machine can only add, and adds more to what takes longer.
    """

    block_ms: tuple[float, ...]
    total_ms: float
    map_ms: dict[tuple[int, str], float]


def profile_blocks(chain: Chain, inputs: Inputs, *, rounds: int = 25, operators: Iterable[Operator] = ()) -> Profile:
    """Time every block inside the running network, and every kind of map on the same hidden states.

    inputs: one batch, of the size that the latency budget is about.
    """
    begun: dict[int, float] = {}
    times: list[list[float]] = [[] for _ in chain.blocks]
    hidden: dict[int, torch.Tensor] = {}

    def wait() -> None:
        if first_tensor(inputs).device.type != "cpu":
            torch.accelerator.synchronize()

    def before(index: int):
        def hook(module, args, kwargs):
            hidden.setdefault(index, hidden_in(args, kwargs, chain.blocks[index].takes).detach().clone())
            wait()
            begun[index] = time.perf_counter()

        return hook

    def after(index: int):
        def hook(module, args, output):
            wait()
            times[index].append((time.perf_counter() - begun[index]) * 1e3)

        return hook

    totals = []
    with ready(chain.model, inputs) as inputs:
        call(chain.model, inputs)
        blocks = [(chain.module(i), i) for i in range(chain.num_blocks)]
        timing = hooked(before=[(block, before(i)) for block, i in blocks], after=[(block, after(i)) for block, i in blocks])
        with timing:
            for _ in range(rounds):
                totals.append(_milliseconds(partial(call, chain.model, inputs), wait))
        maps = {}
        for segment in chain.segments:
            x = hidden[segment.start]
            for operator in operators:
                with suppress(PlanError):  # it has no place where features are so few
                    made = operator.module(segment.width, chain.axis).to(x.device)
                    cost = min(_milliseconds(partial(made, x), wait) for _ in range(rounds))
                    for block in range(segment.start, segment.stop):
                        maps[block, operator.title] = cost
    return Profile(tuple(min(mine) for mine in times), min(totals), maps)


def _milliseconds(work, wait) -> float:
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return (time.perf_counter() - begin) * 1e3


def saved_ms(profile: Profile, row: SpanDamage) -> float:
    """What a row of the scan saves, in milliseconds."""
    blocks = sum(profile.block_ms[b] for b in range(row.start, row.stop))
    return blocks - profile.map_ms.get((row.start, row.title), 0.0)
