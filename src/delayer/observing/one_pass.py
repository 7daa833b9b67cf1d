"""One pass over data: hooks → rows → statistics, without stored activations."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from delayer.errors import DataError, NotFiniteError
from delayer.network.blocks import Place
from delayer.network.calling import call, evaluating, hidden_in, hidden_out, seeded, unfused
from delayer.network.chain import Chain
from delayer.network.hooks import hooked
from delayer.network.precision import multiplying
from delayer.observing.batches import reading_own, within_memory
from delayer.observing.processes import add_, gather, num_processes
from delayer.observing.rows import Rows, chosen, positions, take
from delayer.observing.stats import Moments, Stat

S = TypeVar("S", bound=Stat)


class Watcher(Protocol):
    """Something else that sees a network while batches run through it, such as the switches of its activations."""

    def watching(self, batch: Any) -> AbstractContextManager[None]:
        """Inside, a forward pass of the batch is seen."""
        ...

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Give every process what all of them have seen; see `Stat.pool`."""
        ...


class _SeenAll(BaseException):
    """Ends a forward pass when the last wanted point was seen; no `except Exception` on the way catches it."""


@contextmanager
def watching(
    chain: Chain, points: Iterable[Place], see: Callable[[Place, Tensor], None], *, stop_early: bool = True
) -> Iterator[None]:
    """Call `see(point, hidden)` whenever one of the points is passed; hooks go away also after an exception.

    A point may be a module's path, which stands for what that module gives.

    A forward pass inside ends early, silently, when all points were seen (unless stop_early is false).
    """
    wanted, seen = set(points), set()

    def note(point: Place, hidden: Tensor) -> None:
        if point in seen:
            return
        see(point, hidden)
        seen.add(point)
        if stop_early and seen == wanted:
            raise _SeenAll

    def on_entry(point: Place, place: str) -> Callable[..., None]:
        return lambda module, args, kwargs: note(point, hidden_in(args, kwargs, place))

    def on_exit(point: Place, place: str = "") -> Callable[..., None]:
        return lambda module, args, output: note(point, hidden_out(output, place))

    before = []
    after = [(chain.model.get_submodule(path), on_exit(path)) for path in wanted if isinstance(path, str)]
    inlets: set[int] = set()
    for i, block in enumerate(chain.blocks):
        if block.inlet in wanted and block.inlet not in inlets:
            before.append((chain.module(i), on_entry(block.inlet, block.takes)))
        if block.outlet in wanted:
            after.append((chain.module(i), on_exit(block.outlet, block.gives)))
        inlets |= {block.inlet, block.outlet}
    with suppress(_SeenAll), hooked(before=before, after=after), unfused():
        yield


def rows_of(
    chain: Chain, wants: Mapping[Rows, set[Place]], batch: Any, seed: int, watchers: Sequence[Watcher] = ()
) -> dict[Rows, dict[Place, Tensor]]:
    """Rows [n, features] for each row policy and each of its points, from one forward pass, which watchers see as well.

    Raises DataError when a point is not passed or where samples cannot be told apart, NotFiniteError.
    """
    ids, wanted = _ids(batch), set().union(*wants.values())
    axes: dict[Place, int] = {point: block.samples for block in chain.blocks for point in (block.inlet, block.outlet)}
    rows: dict[Rows, dict[Place, Tensor]] = {policy: {} for policy in wants}
    kept: dict[tuple[Rows, int], Tensor | None] = {}

    def see(point: Place, hidden: Tensor) -> None:
        lie = axes.get(point, 0)
        if not hidden.shape[lie] or hidden.shape[lie] % len(ids):
            raise DataError(
                f"Point {point} has {hidden.shape[lie]} samples where the batch has {len(ids)}; "
                "delayer needs blocks that keep the samples of a batch apart along one dimension."
            )
        # Sums are in float64, which Apple's accelerator lacks; its rows are summed on the CPU.
        hidden = positions(
            hidden.detach().cpu() if hidden.device.type == "mps" else hidden.detach(), chain.axis, samples=lie, num=len(ids)
        )
        num = hidden.shape[1]
        mask = batch.mask_for(num)
        for policy, points in wants.items():
            if point not in points:
                continue
            if policy.kind == "each" and (policy, num) not in kept:
                index = chosen(policy, ids, num, mask, seed)
                kept[policy, num] = None if index is None else index.to(hidden.device)
            rows[policy][point] = take(hidden, policy, mask, kept.get((policy, num)))

    with evaluating(chain.model), seeded(batch.start), ExitStack() as stack:
        for watcher in watchers:
            stack.enter_context(watcher.watching(batch))
        with multiplying(chain.model), watching(chain, wanted, see, stop_early=not watchers):
            call(chain.model, batch.inputs)
    missing = wanted.difference(*rows.values())
    if missing:
        raise DataError(f"Points {sorted(missing, key=str)} were never passed; is a block skipped in evaluation mode?")
    for point in sorted(wanted, key=lambda point: -1 if isinstance(point, str) else point):
        for seen in rows.values():
            if point in seen and not (torch.isfinite(seen[point].sum()) or torch.isfinite(seen[point]).all()):
                raise NotFiniteError(
                    f"NaN or infinity first appears {_where(chain, point)}, in samples {int(ids[0])} to {int(ids[-1])}. "
                    "Check the weights and the data, or run in float32."
                )
    return rows


def _where(chain: Chain, point: Place) -> str:
    if isinstance(point, str):
        return f"behind {point}"
    label = chain.point_labels[point]
    return f"at the input of block {label[3:] or 0}" if label.startswith("in") else f"behind block {label}"


def _ids(batch: Any) -> Tensor:
    return torch.arange(batch.start, batch.start + len(batch))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter lives; the CPU for one without parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _pooled(stats: Sequence[S]) -> list[S]:
    """The statistics over all processes, the same on each. Raises DataError for one without rows."""
    for stat in stats:
        if num_processes() > 1:
            stat.pool(add_, gather)
        if stat.points and not stat.num_rows:
            raise DataError(
                f"No row was seen under the row policy {stat.rows}: every position is padding, or the share is too "
                "small for so few samples. Give more data or a larger share."
            )
    return list(stats)


def observe(
    chain: Chain,
    batches: Sequence[Any],
    stats: Sequence[S] = (),
    *,
    watchers: Sequence[Watcher] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[S]:
    """Fill statistics in one pass over data and get them back.

    chain: the network to watch, in evaluation mode (its mode is restored afterwards).
    batches: a sequence with `inputs`, `mask`, `start`, `to` and a length each (`Task.batches`). Where `join_processes`
    found company, each process takes a contiguous share, and the statistics, which must be new then, are pooled, so
    that all end up with the same.
    watchers: what sees the same forward passes besides; see `observe_sites`.
    seed: decides which rows a policy with a share keeps.
    progress: called with (batches done, batches in all).
    Raises DataError when there is nothing to see, NotFiniteError naming the first bad point, MemoryLimitError.
    """
    wants: dict[Rows, set[Place]] = {}
    for stat in stats:
        wants.setdefault(stat.rows, set()).update(stat.points)
    if not any(wants.values()) and not watchers:
        raise DataError("No point is to be watched; give at least one statistic with points.")
    if num_processes() > 1 and any(stat.num_rows for stat in stats):
        raise ValueError("Several processes can only fill new statistics; pass new ones and merge the old.")
    mine, reading = reading_own(batches)
    for done, batch in enumerate(reading):
        with within_memory(batch):
            batch = batch.to(device_of(chain.model))
            rows = rows_of(chain, wants, batch, seed, watchers)
            for stat in stats:
                stat.update(rows[stat.rows], _ids(batch))
        if progress:
            progress(done + 1, len(mine))
    if num_processes() > 1:
        for watcher in watchers:
            watcher.pool(add_, gather)
    return _pooled(stats)


def observe_pair(
    source: tuple[Chain, int], target: tuple[Chain, int], batches: Sequence[Any], rows: Rows, *, exact: bool = True, seed: int = 0
) -> Moments:
    """Moments between a point of one network (0 in the result) and a point of another (1), on the same rows.

    For sequential refits: the input is the stream of the network cut so far, the target the original's.
    """
    stat = Moments([(0, 1)], rows, exact=exact)
    for batch in reading_own(batches)[1]:
        with within_memory(batch):
            ends = {}
            for k, (chain, point) in enumerate((source, target)):
                there = batch.to(device_of(chain.model))
                ends[k] = rows_of(chain, {rows: {point}}, there, seed)[rows][point].to(device_of(source[0].model))
            stat.update(ends, _ids(batch))
    return _pooled([stat])[0]
