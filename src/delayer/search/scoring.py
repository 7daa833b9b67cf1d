"""All metrics in one pass: scores, a ranking of the blocks, and where metrics or data sets disagree."""

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


def block_values(chain: Chain, one: Score) -> dict[int, float]:
    """What a score says of each removable block, as the span of that block alone."""
    found = {}
    for i, block in enumerate(chain.blocks):
        value = one.values[i] if one.shape == "blocks" else one.values[block.inlet][block.outlet]
        if block.removable and value is not None:
            found[i] = float(value)
    return found


def rank_blocks(chain: Chain, scores: Sequence[Score]) -> tuple[list[dict[str, Any]], list[str]]:
    """The blocks, most redundant first by mean rank, and sentences that say where metrics disagree.

    Two metrics disagree where the rank correlation (Spearman) of their blocks is under one half.
    """
    ranks: dict[str, dict[int, int]] = {}
    for one in (s for s in scores if s.shape != "network"):
        values = block_values(chain, one)
        if len(values) > 1:
            order = sorted(values, key=lambda b: values[b], reverse=one.redundant == "high")
            ranks[one.title] = {block: place + 1 for place, block in enumerate(order)}
    blocks = sorted(set().union(*ranks.values())) if ranks else []
    rows = [
        {
            "block": b,
            "path": chain.blocks[b].path,
            "mean_rank": sum(r[b] for r in ranks.values() if b in r) / max(1, sum(b in r for r in ranks.values())),
            "ranks": {t: r[b] for t, r in ranks.items() if b in r},
        }
        for b in blocks
    ]
    rows.sort(key=lambda row: (row["mean_rank"], row["block"]))
    return rows, _disagreements(ranks)


def _disagreements(ranks: dict[str, dict[int, int]]) -> list[str]:
    """One sentence for each metric that ranks the blocks unlike others do, each pair told once."""
    apart: dict[str, list[str]] = {}
    for one in ranks:
        for two in ranks:
            both = sorted(ranks[one].keys() & ranks[two].keys())
            if one != two and len(both) > 2 and correlation([ranks[one][b] for b in both], [ranks[two][b] for b in both]) < 0.5:
                apart.setdefault(one, []).append(two)
    said, told = [], set()
    for one in sorted(apart, key=lambda title: -len(apart[title])):
        others = [two for two in apart[one] if frozenset((one, two)) not in told]
        told |= {frozenset((one, two)) for two in others}
        if others:
            first = {title: min(ranks[title], key=ranks[title].__getitem__) for title in (one, others[0])}
            said.append(
                f"{one} ranks the blocks unlike {' and '.join(others)} (rank correlation under 0.5): it calls block "
                f"{first[one]} the most redundant, {others[0]} block {first[others[0]]}. Trust measured cuts, not a score."
            )
    return said


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    pair = torch.tensor([list(x), list(y)], dtype=torch.float64)
    pair = pair - pair.mean(1, keepdim=True)
    scale = pair.norm(dim=1).prod()
    return float(pair[0] @ pair[1] / scale) if scale > 0 else 0.0


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's correlation, ties in order of appearance."""
    ranks = [torch.tensor(list(v), dtype=torch.float64).argsort(stable=True).argsort(stable=True).tolist() for v in (x, y)]
    return correlation(*ranks)


def correlate(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """How alike the similarity matrices of a network are on two data sets: Pearson and Spearman over all pairs.

    Source: RBA's claim that the pattern belongs to the architecture, not to the data (arXiv 2410.04941).
    """
    found = []
    for k, one in enumerate(scores):
        for two in scores[k + 1 :]:
            if one.name != two.name or one.data == two.data or one.shape in ("blocks", "network") or one.labels != two.labels:
                continue
            cells = [
                (a, b)
                for i, (p, q) in enumerate(zip(one.values, two.values, strict=True))
                for j, (a, b) in enumerate(zip(p, q, strict=True))
                if j > i and a is not None and b is not None
            ]
            if len(cells) > 2:
                x, y = zip(*cells, strict=True)
                found.append(
                    {
                        "metric": one.title,
                        "first": one.data,
                        "second": two.data,
                        "num_pairs": len(cells),
                        "pearson": correlation(x, y),
                        "spearman": rank_correlation(x, y),
                    }
                )
    return found
