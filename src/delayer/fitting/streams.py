"""Statistics between the stream of a network cut so far and the original's, gathered when an edit asks for them.

Sequential fits: what a layer reads comes from the network as it is by then, what it should answer from the original, so
that errors are mended on the way and do not compound. Of the samples nothing is kept but what enters the block under way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from delayer.activations.counting import switches_of
from delayer.activations.switches import Switches
from delayer.errors import DataError, PlanError
from delayer.fitting.batch_norm import window_of
from delayer.fitting.block_runs import BlockRuns
from delayer.fitting.few_rows import FewRows
from delayer.fitting.held_out import add_held_out
from delayer.fitting.massive import usual
from delayer.fitting.totals import Totals
from delayer.network.calling import call, evaluating
from delayer.network.chain import Chain, Span
from delayer.network.inside_block import Run, Tail
from delayer.network.mapped import is_mapped
from delayer.network.precision import multiplying
from delayer.observing.one_pass import device_of, observe_pair
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.observing.stats.patch_moments import PatchMoments, Precision


class Streams:
    """What sequential edits read.

    chain: the network cut so far. original: a copy of it as it was. batches: what both are run on.
    tried: whether it is known that passes which begin in the middle are the same as whole ones; else a few are held against them.
    moments: of the original's stream, for maps that are fitted on it alone; None to fit them on the cut network's.
    totals: what is known of the original on these batches. precision: of the products that layers are solved from.
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
        totals: Totals | None = None,
        precision: Precision = "usual",
    ):
        self.chain, self.original, self.batches, self.rows, self.seed = chain, original, batches, rows, seed
        self.moments = moments
        self.precision: Precision = precision
        self._totals = Totals(largest=0) if totals is None else totals
        self._runs = {each: BlockRuns(each, tried=tried) for each in (chain, original)}

    def begin_at(self, block: int) -> None:
        """Blocks before this one change no more: passes to it or further begin there, as far as memory allows."""
        for runs in self._runs.values():
            runs.begin_at(block)

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

        def both(batch: Any) -> tuple[Run, Tensor, Tail | None]:
            wanted = self._totals.of(target, batch, lambda: self._runs[self.original].run(target, batch, answers=False))
            return self._runs[self.chain].run(block, batch, answers=False), *wanted

        def ends(cut: Run, wanted: Tensor) -> tuple[Tensor, Tensor]:
            last, present = cut.ending
            total = wanted.reshape(present.shape)
            if hidden_free and cut.tail == "relu":
                total = free_where_hidden(total, present)
            return last.read, total if cut.rest is None else total - cut.rest

        return self._gather(block, target, both, ends, hold_out=hold_out)

    def first_run(self, block: int) -> Run:
        """What a block of the network cut so far shows on the first batch."""
        return self._runs[self.chain].run(block, next(self._read()))

    def inner_paths(self, block: int) -> list[str]:
        """Paths inside a block of the linear layers that run before its last, in order."""
        run = self.first_run(block)
        paths = [layer.path for layer in run.layers]
        return paths[: paths.index(run.ending[0].path)]

    def inner_layer(
        self, block: int, path: str, *, hidden_free: bool = False, hold_out: bool = True
    ) -> tuple[PatchMoments, PatchMoments, Run]:
        """The same for a layer before the last, which should answer what it answers in the original."""

        answers: list[Tensor] = []

        def both(batch: Any) -> tuple[Run, Tensor, Tail | None]:
            first = self._runs[self.original].run(block, batch)
            answers[:] = [first.layer(path).held]
            return self._runs[self.chain].run(block, batch), first.ending[1], first.tail

        def ends(cut: Run, _: Tensor) -> tuple[Tensor, Tensor]:
            layer, wanted = cut.layer(path), answers[0]
            return layer.read, free_where_hidden(wanted, layer.held) if hidden_free and cut.rectifies(layer) else wanted

        return self._gather(block, block, both, ends, path, hold_out=hold_out)

    def span(
        self, span: Span, window: Mapping[str, tuple[int, int]] | None, present: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[PatchMoments, PatchMoments, Tail | None]:
        """What enters a span, with the original's total at its end, for one convolution with a window of its own.

        present: the total that a convolution gives now; then what a ReLU hides is free.
        """
        source = self.original if self.moments is not None else self.chain
        fit, heldout, tail = PatchMoments(window), PatchMoments(window), None
        for batch in self._read():
            first = self._runs[self.original].run(span.stop - 1, batch)
            if source is self.original:
                entering = first.before if len(span) == 1 else self._runs[source].run(span.start, batch).before
            else:
                entering = self._runs[source].run(span.start, batch).before
            total = first.ending[1].reshape(entering.shape)
            if present is not None and first.tail == "relu":
                with torch.no_grad():
                    total = free_where_hidden(total, present(entering))
            add_held_out(batch, entering, total, fit, heldout, rows=self.rows, seed=self.seed)
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
        self,
        block: int,
        target: int,
        both: Callable[[Any], tuple[Run, Tensor, Tail | None]],
        ends: Callable[[Run, Tensor], tuple[Tensor, Tensor]],
        path: str = "",
        *,
        hold_out: bool = True,
    ) -> tuple[PatchMoments, PatchMoments, Run]:
        gathered: tuple[PatchMoments, PatchMoments, Run] | None = None
        for batch in self._read():
            cut, wanted, tail = both(batch)
            last, total = cut.ending
            if wanted.numel() != total.numel() or tail != cut.tail:
                raise PlanError(
                    f"Block {block} cannot stand for block {target}: it gives {list(total.shape)} and ends in "
                    f"{cut.tail}, the other {list(wanted.shape)} in {tail}. Choose a target in the same run."
                )
            if gathered is None:
                window = window_of(self.chain.module(block).get_submodule(path or last.path))
                if window is None and self._few(last.read, total):
                    gathered = FewRows(), FewRows(), cut
                else:
                    fit, heldout = (PatchMoments(window, precision=self.precision) for _ in range(2))
                    gathered = fit, heldout, cut
            x, y = ends(cut, wanted)
            some = usual(wanted, batch.masks)
            add_held_out(batch, x, y, gathered[0], gathered[1] if hold_out else None, rows=self.rows, seed=self.seed, some=some)
        assert gathered is not None  # `_read` gives one batch at least
        return gathered

    def _few(self, read: Tensor, total: Tensor) -> bool:
        """Whether rows are kept as they are: of a network whose weights lie in files, fewer of them than features."""
        rows = total.numel() // total.shape[-1] * len(self.batches)
        return is_mapped(self.chain.model) and rows <= read.shape[-1]

    def _read(self) -> Iterator[Any]:
        if not len(self.batches):
            raise DataError("The data set is empty, so there is nothing to fit on. Give at least one batch.")
        for batch in self.batches:
            yield batch.to(device_of(self.chain.model))


def free_where_hidden(wanted: Tensor, present: Tensor) -> Tensor:
    """The total nearest to the present one among those that look the same as the wanted one behind a ReLU.

    Fitting to it and taking it anew in turn can only bring what is behind the ReLU nearer (alternating projections).
    """
    return torch.where(wanted < 0, present.clamp(max=0), wanted)
