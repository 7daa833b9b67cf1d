"""What one block of a network shows on a batch: passes end behind the block, and begin as far in as nothing changes any more."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

from delayer.errors import DataError
from delayer.fitting.prefix import Prefix
from delayer.network.calling import call, evaluating, seeded
from delayer.network.chain import Chain
from delayer.network.inside_block import Run, check_form, form_of, running
from delayer.network.precision import multiplying


class _Enough(BaseException):
    """Ends a forward pass behind the block that was asked for."""


class BlockRuns:
    """Runs a network up to one block.

    tried: whether it is known that passes which begin in the middle are the same as whole ones; else a few are held against them.
    """

    def __init__(self, chain: Chain, *, tried: bool = False):
        self.chain, self._prefix = chain, Prefix(chain)
        self._tried: set[int] | None = None if tried else set()

    def begin_at(self, block: int) -> None:
        """Blocks before this one change no more: passes to it or further begin there, as far as memory allows."""
        num, prefix = self.chain.num_blocks, self._prefix
        if prefix.largest and len({self.chain.module(index) for index in range(num)}) == num:
            prefix.start = block

    def run(self, block: int, batch: Any, *, answers: bool = True) -> Run:
        """What a block shows on a batch. Raises DataError where it is not passed, ModelError for a form that cannot be solved.

        answers: whether the numbers of each layer's answer are kept; those of the block's total always are.
        """
        prefix = self._prefix
        if block < prefix.start:
            raise ValueError(f"Block {block} is asked for, but passes begin at {prefix.start}.")
        known = prefix.knows(batch)
        run = self._pass(block, batch, prefix.passing(batch), answers=answers)
        if known and self._tried is not None and self._to_try(self._tried, prefix.start):
            # Nothing but its blocks should tell a network what its blocks read; where something does, it shows here.
            self._tried.add(prefix.start)
            whole = self._pass(block, batch, nullcontext(), answers=answers)
            if not (torch.equal(run.before, whole.before) and torch.equal(run.ending[1], whole.ending[1])):
                prefix.forget()
                return whole
        return run

    def _to_try(self, tried: set[int], start: int) -> bool:
        """Whether passes that begin at a block are held against a whole one: once, and where the network works in between."""
        between = self.chain.blocks[start - 1].outlet != self.chain.blocks[start].inlet
        return start not in tried and (between or len(tried) < 2)

    def _pass(self, block: int, batch: Any, beginning: AbstractContextManager, *, answers: bool) -> Run:
        seen: list[Run] = []

        def see(run: Run) -> None:
            seen.append(run)
            raise _Enough

        chain, at = self.chain, self.chain.blocks[block]
        with (
            evaluating(chain.model),
            seeded(batch.start),
            multiplying(chain.model),
            beginning,
            _ended(),
            running(chain.module(block), see, takes=at.takes, gives=at.gives, answers=answers),
        ):
            call(chain.model, batch.inputs)
        if not seen:
            raise DataError(f"Block {block} was never passed; is it skipped in evaluation mode?")
        check_form(form_of(seen[0]), chain.blocks[block].path)
        return seen[0]


@contextmanager
def _ended() -> Iterator[None]:
    with suppress(_Enough):
        yield
