"""All metrics of blocks in one pass."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from delayer.metrics.blocks import Layout, Metric, metrics
from delayer.network.chain import Chain
from delayer.network.layers import layers_of
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows, row_kind
from delayer.observing.stats import Stat
from delayer.registry.options import OptionsOf
from delayer.study import Record, Score

METRIC_OPTIONS = OptionsOf("delayer.metrics.blocks", "metrics")


class ScoreOptions(Record):
    """How similarities are read and counted."""

    pool: Literal["mean", "first", "last"] = "mean"
    """How the tokens or pixels of a sample become one row for CKA and MSRS: mean, first or last."""
    metric_options: Annotated[dict[str, Any], METRIC_OPTIONS] = {}
    """Options of metrics, by name."""


def layout_of(chain: Chain, options: ScoreOptions = ScoreOptions()) -> Layout:
    """What metrics may know of a chain."""
    layers = layers_of(chain)
    return Layout(
        num_points=chain.num_points,
        groups=tuple(segment.points for segment in chain.segments),
        rows=Rows(row_kind(chain.family.rows)),
        outlets=tuple(block.outlet for block in chain.blocks),
        layers=tuple(layer.place for layer in layers),
        kinds=tuple(layer.kind for layer in layers if layer.block is not None),
        pool=Rows(options.pool),
        tau=chain.family.tau,
    )


def stats_for(
    chain: Chain, names: Iterable[str] | None = None, options: ScoreOptions = ScoreOptions()
) -> tuple[list[Stat], list[tuple[Metric, Stat]]]:
    """The statistics that metrics read, each built once, and which metric reads which."""
    METRIC_OPTIONS.check(options.metric_options)
    layout = layout_of(chain, options)
    shared: dict[tuple, Stat] = {}
    readers = []
    for name in (names,) if isinstance(names, str) else names if names is not None else metrics:
        chosen = metrics[name]
        chosen.own(options.metric_options)  # raises before any pass
        stat = chosen.stat(layout)
        key = (type(stat), stat.rows, stat.points, getattr(stat, "batch_size", None))
        readers.append((chosen, shared.setdefault(key, stat)))
    return list(shared.values()), readers


def read_scores(
    chain: Chain,
    readers: Sequence[tuple[Metric, Stat]],
    *,
    seed: int,
    data: str,
    model: str = "",
    options: ScoreOptions = ScoreOptions(),
) -> list[Score]:
    """What the metrics say, once their statistics are filled."""
    layout, asked, found = layout_of(chain, options), options.metric_options, []
    for m, stat in readers:
        values = m.read(stat, layout, asked)
        labels, numbers = (
            (tuple(values), list(values.values())) if isinstance(values, dict) else (chain.point_labels, _plain(values))
        )
        found.append(
            Score(
                name=m.name,
                title=m.title,
                shape=m.shape,
                redundant=m.redundant,
                unit=m.unit,
                source=m.source,
                values=tuple(numbers),
                labels=labels,
                rows=str(stat.rows),
                num_samples=stat.num_rows,
                fewest=m.fewest,
                seed=seed,
                data=data,
                model=model,
                warnings=m.warn(stat, layout, asked),
            )
        )
    return found


def score(
    chain: Chain,
    batches: Sequence[Any],
    names: Iterable[str] | None = None,
    *,
    options: ScoreOptions = ScoreOptions(),
    seed: int = 0,
    data: str = "",
    model: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """What every metric (or the named ones) says of a chain on some data, in one pass.

    Raises UnknownName for a metric that does not exist, and what `observe` raises.
    """
    stats, readers = stats_for(chain, names, options)
    observe(chain, batches, stats, seed=seed, progress=progress)
    return read_scores(chain, readers, seed=seed, data=data, model=model, options=options)


def _plain(values: Tensor) -> list[Any]:
    """Nested lists with None for NaN."""
    if values.ndim:
        return [_plain(row) if row.ndim else (None if torch.isnan(row) else float(row)) for row in values]
    return [float(values)]
