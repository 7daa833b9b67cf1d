"""Statistics between the stream of a network cut so far and the original's, gathered when an edit asks for them.

Sequential fits: what a layer reads comes from the network as it is by then, what it should answer from the original, so
that errors are mended on the way and do not compound. Of the samples nothing is kept but what enters the block under way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from delayer.activations.counting import switches_of
from delayer.activations.switches import Switches
from delayer.errors import DataError, NotFiniteError, PlanError
from delayer.fitting.batch_norm import window_of
from delayer.fitting.prefix import Prefix
from delayer.network.calling import call, evaluating, seeded
from delayer.network.chain import Chain, Span
from delayer.network.inside_block import Run, Tail, check_form, form_of, running
from delayer.network.precision import multiplying
from delayer.observing.one_pass import device_of, observe_pair
from delayer.observing.rows import Rows, chosen
from delayer.observing.stats import Moments
from delayer.observing.stats.patch_moments import PatchMoments

HELD_OUT = 5
"""Every fifth sample is kept out of a fit while its ridge is chosen; the last fit uses all."""


MASSIVE = 100.0
"""Tokens whose state holds so many times the energy of the batch's median are left out of fits.

A few tokens, the first above all, carry activations of hundreds of times the usual size (Sun et al. 2024, Massive
Activations in Large Language Models, arXiv 2402.17762), and least squares would serve them alone.
"""


class _Enough(BaseException):
    """Ends a forward pass behind the block that was asked for."""


class Streams:
    """What sequential edits read.

    chain: the network cut so far. original: a copy of it as it was. batches: what both are run on.
    tried: whether it is known that passes which begin in the middle are the same as whole ones; else a few are held against them.
    moments: of the original's stream, for maps that are fitted on it alone; None to fit them on the cut network's.
    Of several processes each reads everything, so that all end up with the same.
    """

    def __init__(
        self,
        chain: Chain,
        original: Chain,
        batches: Sequence[Any],
        rows: Rows = Rows(),
        *,
        seed: int = 0,
        moments: Moments | None = None,
        tried: bool = False,
    ):
        self.chain, self.original, self.batches, self.rows, self.seed = chain, original, batches, rows, seed
        self.moments = moments
        self._prefixes = {each: Prefix(each) for each in (chain, original)}
        self._tried: dict[Chain, set[int]] | None = None if tried else {chain: set() for chain in self._prefixes}

    def begin_at(self, block: int) -> None:
        """Blocks before this one change no more: passes to it or further begin there, as far as memory allows."""
        for chain, prefix in self._prefixes.items():
            if prefix.largest and len({chain.module(index) for index in range(chain.num_blocks)}) == chain.num_blocks:
                prefix.start = block

    def pair(self, x: int, y: int):
        """Moments of point x of the network cut so far and point y of the original (of both in it, where `moments` are)."""
        if self.moments is not None:
            return self.moments.pair(x, y)
        return observe_pair((self.chain, x), (self.original, y), self.batches, self.rows, seed=self.seed).pair(0, 1)

    def switches(self, site: str) -> Switches:
        """Switch statistics of an activation of the network cut so far."""
        return switches_of(self.chain, [site], self.batches)[site]

    def last_layer(
        self, block: int, target: int, *, hidden_free: bool = False, hold_out: bool = True
    ) -> tuple[PatchMoments, PatchMoments, Run]:
        """What a block's last layer reads, with what it should answer so that the block's total is that of `target` there.

        Two sets of moments, of four fifths of the samples and of the rest, and the run of one batch.
        hidden_free: where a ReLU will hide the target, what is negative already may stay as it is. hold_out: else all of them are
        in the first set, where nothing is to be chosen.
        """

        def ends(cut: Run, first: Run) -> tuple[Tensor, Tensor]:
            (last, present), (_, wanted) = cut.ending, first.ending
            total = wanted.reshape(present.shape)
            if hidden_free and cut.tail == "relu":
                total = free_where_hidden(total, present)
            return last.read, total if cut.rest is None else total - cut.rest

        return self._gather(block, target, ends, hold_out=hold_out)

    def inner_paths(self, block: int) -> list[str]:
        """Paths inside a block of the linear layers that run before its last, in order."""
        run = self._run(self.chain, block, next(self._read()))
        paths = [layer.path for layer in run.layers]
        return paths[: paths.index(run.ending[0].path)]

    def inner_layer(
        self, block: int, path: str, *, hidden_free: bool = False, hold_out: bool = True
    ) -> tuple[PatchMoments, PatchMoments, Run]:
        """The same for a layer before the last, which should answer what it answers in the original."""

        def ends(cut: Run, first: Run) -> tuple[Tensor, Tensor]:
            layer, wanted = cut.layer(path), first.layer(path).said
            return layer.read, free_where_hidden(wanted, layer.said) if hidden_free and cut.rectifies(layer) else wanted

        return self._gather(block, block, ends, path, hold_out=hold_out)

    def span(
        self, span: Span, window: Mapping[str, tuple[int, int]] | None, present: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[PatchMoments, PatchMoments, Tail | None]:
        """What enters a span, with the original's total at its end, for one convolution with a window of its own.

        present: the total that a convolution gives now; then what a ReLU hides is free.
        """
        source = self.original if self.moments is not None else self.chain
        fit, heldout, tail = PatchMoments(window), PatchMoments(window), None
        for batch in self._read():
            first = self._run(self.original, span.stop - 1, batch)
            if source is self.original:
                entering = first.before if len(span) == 1 else self._run(source, span.start, batch).before
            else:
                entering = self._run(source, span.start, batch).before
            total = first.ending[1].reshape(entering.shape)
            if present is not None and first.tail == "relu":
                with torch.no_grad():
                    total = free_where_hidden(total, present(entering))
            self._add(batch, entering, total, fit, heldout)
            tail = first.tail
        return fit, heldout, tail

    def run_all(self, learning: Sequence[nn.Module]) -> None:
        """Run the network cut so far on everything, with these modules in training mode."""
        with evaluating(self.chain.model):
            for module in learning:
                module.training = True  # `evaluating` gives every module its own mode back
            for batch in self._read():
                with multiplying(self.chain.model):
                    call(self.chain.model, batch.inputs)

    def _gather(
        self, block: int, target: int, ends, path: str = "", *, hold_out: bool = True
    ) -> tuple[PatchMoments, PatchMoments, Run]:
        gathered: tuple[PatchMoments, PatchMoments, Run] | None = None
        for batch in self._read():
            first, cut = self._run(self.original, target, batch), self._run(self.chain, block, batch)
            (last, total), (_, wanted) = cut.ending, first.ending
            if wanted.numel() != total.numel() or first.tail != cut.tail:
                raise PlanError(
                    f"Block {block} cannot stand for block {target}: it gives {list(total.shape)} and ends in "
                    f"{cut.tail}, the other {list(wanted.shape)} in {first.tail}. Choose a target in the same run."
                )
            if gathered is None:
                window = window_of(self.chain.module(block).get_submodule(path or last.path))
                gathered = PatchMoments(window), PatchMoments(window), cut
            x, y = ends(cut, first)
            self._add(batch, x, y, gathered[0], gathered[1] if hold_out else None, usual(wanted, batch.masks))
        assert gathered is not None  # `_read` gives one batch at least
        return gathered

    def _add(
        self, batch: Any, x: Tensor, y: Tensor, fit: PatchMoments, heldout: PatchMoments | None, some: Tensor | None = None
    ) -> None:
        num = y[0, 0].numel() if fit.window is not None else y[0].numel() // y.shape[-1]
        if not torch.isfinite(y.sum()) and not torch.isfinite(y).all():
            raise NotFiniteError("NaN or infinity in what a layer should answer. Check the weights and the data.")
        mask = batch.mask_for(num)
        ids = torch.arange(batch.start, batch.start + len(batch))
        index = chosen(self.rows, ids, num, mask, self.seed)
        keep = None
        if index is not None:
            keep = torch.zeros(len(ids) * num, dtype=torch.bool)
            keep[index] = True
            keep = keep.view(len(ids), num).to(x.device)
        if some is not None and fit.window is None and some.numel() == len(ids) * num:
            some = some.reshape(len(ids), num)
            keep = some if keep is None else keep & some
        if heldout is None:
            fit.update(x, y, keep)
            return
        out = (ids % HELD_OUT == HELD_OUT - 1).to(x.device)
        for stat, mine in ((heldout, out), (fit, ~out)):
            if mine.any():
                stat.update(x[mine], y[mine], None if keep is None else keep[mine])

    def _read(self) -> Iterator[Any]:
        if not len(self.batches):
            raise DataError("The data set is empty, so there is nothing to fit on. Give at least one batch.")
        for batch in self.batches:
            yield batch.to(device_of(self.chain.model))

    def _run(self, chain: Chain, block: int, batch: Any) -> Run:
        """What one block of a network shows on a batch."""
        prefix = self._prefixes[chain]
        if block < prefix.start:
            raise ValueError(f"Block {block} is asked for, but passes begin at {prefix.start}.")
        known = prefix.knows(batch)
        run = self._pass(chain, block, batch, prefix.passing(batch))
        if known and self._to_try(chain, prefix.start):
            # Nothing but its blocks should tell a network what its blocks read; where something does, it shows here.
            assert self._tried is not None
            self._tried[chain].add(prefix.start)
            whole = self._pass(chain, block, batch, nullcontext())
            if not (torch.equal(run.before, whole.before) and torch.equal(run.ending[1], whole.ending[1])):
                prefix.forget()
                return whole
        return run

    @contextmanager
    def _evaluating(self, chain: Chain, batch: Any) -> Iterator[None]:
        with evaluating(chain.model), seeded(batch.start), multiplying(chain.model):
            yield

    def _to_try(self, chain: Chain, start: int) -> bool:
        """Whether passes that begin at a block are held against a whole one: once, and where the network works in between."""
        if self._tried is None:
            return False
        between = chain.blocks[start - 1].outlet != chain.blocks[start].inlet
        return start not in self._tried[chain] and (between or len(self._tried[chain]) < 2)

    def _pass(self, chain: Chain, block: int, batch: Any, beginning: AbstractContextManager) -> Run:
        seen: list[Run] = []

        def see(run: Run) -> None:
            seen.append(run)
            raise _Enough

        places = {"takes": chain.blocks[block].takes, "gives": chain.blocks[block].gives}
        with self._evaluating(chain, batch), beginning, _ended(), running(chain.module(block), see, **places):
            call(chain.model, batch.inputs)
        if not seen:
            raise DataError(f"Block {block} was never passed; is it skipped in evaluation mode?")
        check_form(form_of(seen[0]), chain.blocks[block].path)
        return seen[0]


def usual(state: Tensor, masks: Sequence[Tensor | None] = ()) -> Tensor | None:
    """Which rows [.., features] hold no massive activations; None where all of them are usual.

    masks: those of the batch; the one of the rows' shape says which are real, since padding may hold anything.
    """
    energy = state.float().square().sum(-1)
    real = next((mask.bool() for mask in masks if mask is not None and mask.shape == energy.shape), None)
    median = (energy if real is None else energy[real]).median()
    some = energy <= MASSIVE * median.clamp_min(torch.finfo(energy.dtype).tiny)
    return None if bool(some.all()) else some


def free_where_hidden(wanted: Tensor, present: Tensor) -> Tensor:
    """The total nearest to the present one among those that look the same as the wanted one behind a ReLU.

    Fitting to it and taking it anew in turn can only bring what is behind the ReLU nearer (alternating projections).
    """
    return torch.where(wanted < 0, present.clamp(max=0), wanted)


@contextmanager
def _ended() -> Iterator[None]:
    with suppress(_Enough):
        yield
