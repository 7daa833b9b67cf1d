"""All site metrics from one pass, and a ranking of the activations by how little they switch."""

from collections.abc import Callable, Sequence
from typing import Any

from delayer.activations.counting import SiteWatcher, normal_of
from delayer.activations.sites import Site, sites_
from delayer.activations.switches import STATES, Switches
from delayer.metrics.activations import SiteMetric, site_metrics
from delayer.network.calling import example_of
from delayer.network.chain import Chain
from delayer.observing.one_pass import device_of, observe
from delayer.study import SiteInfo, SiteMetricInfo, Sites

RELEASED = (
    "EASIER's released code counts in training mode, in the last epoch of fine-tuning; easier_released is the same "
    "formula in evaluation mode here."
)


def sites(
    chain: Chain,
    batches: Sequence[Any],
    *,
    data_free: bool = False,
    batch_size: int = 128,
    data: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Sites:
    """Every activation of a network and what every site metric says of it, from one pass over data.

    data_free: read norm parameters alone; the first batch is still used to find the activations.
    batch_size: samples a batch, for entropies that are means over batches.
    Raises what `observe_sites` raises.
    """
    watcher = watcher_of(chain, batches, batch_size)
    read = None if data_free else batches
    return score_sites(watcher.chain, watcher.sites, read, batch_size=batch_size, data=data, progress=progress)


def watcher_of(chain: Chain, batches: Sequence[Any], batch_size: int = 128) -> SiteWatcher:
    """What watches every activation of a network in a pass of `watcher.chain`, a copy in which each use is a module."""
    copy = chain.copy()  # whose forward passes are traced anew
    return SiteWatcher(copy, sites_(copy, example_of(batches[0].to(device_of(chain.model)).inputs)), batch_size)


def score_sites(
    chain: Chain,
    sites: Sequence[Site],
    batches: Sequence[Any] | None,
    *,
    batch_size: int = 128,
    data: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Sites:
    """What every site metric says of every activation.

    sites: from `sites_`. batches: data for one pass; None reads norm parameters alone, which leaves everything else out.
    Raises what `observe_sites` raises.
    """
    watcher = SiteWatcher(chain, sites, batch_size)
    if batches is not None:
        observe(chain, batches, watchers=[watcher], progress=progress)
    return read_sites(watcher, batches, data=data)


def read_sites(watcher: SiteWatcher, batches: Sequence[Any] | None, *, data: str = "") -> Sites:
    """What every site metric says, once the watcher has seen all batches; None of them reads norm parameters alone.

    Raises DataError where a site saw no row.
    """
    chain, sites = watcher.chain, watcher.sites
    stats = watcher.filled() if batches is not None else {}
    chosen = [metric for _, metric in site_metrics.items() if batches is not None or metric.reads == "normal"]
    found = tuple(
        SiteInfo(
            path=site.path,
            kind=site.kind,
            block=site.block,
            num_features=site.num_features,
            positions=site.positions,
            norm=site.norm,
            states=_states(stats.get(site.path)),
            values={metric.name: _value(metric, chain, site, stats) for metric in chosen},
        )
        for site in sites
    )
    notes = [RELEASED] if any(metric.name == "easier_released" for metric in chosen) else []
    if without := [site.path for site in found if None in site.values.values()]:
        notes.append(
            f"{len(without)} of {len(found)} activations have no batch norm directly before them, so norm parameters "
            f"alone say nothing of them: {', '.join(without[:3])}{' and so on' if len(without) > 3 else ''}."
        )
    last = batches[len(batches) - 1] if batches is not None else None
    num_samples = last.start + len(last) if last is not None else 0
    few: dict[int, list[str]] = {}
    for metric in chosen:
        if num_samples < metric.fewest and batches is not None:
            few.setdefault(metric.fewest, []).append(metric.title)
    notes += [
        f"{', '.join(titles)}: read from {num_samples} samples; under {fewest} they are mostly chance. Give more data "
        "(--num-fit)."
        for fewest, titles in few.items()
    ]
    return Sites(
        sites=found,
        ranking=rank_sites(found),
        num_samples=num_samples,
        batch_size=watcher.batch_size,
        data=data,
        notes=tuple(notes),
        metrics=tuple(SiteMetricInfo(name=m.name, title=m.title, unit=m.unit, source=m.source, fewest=m.fewest) for m in chosen),
    )


def _value(metric: SiteMetric, chain: Chain, site: Site, stats: dict[str, Switches]) -> float | None:
    if metric.reads == "switches":
        return metric.value(stats[site.path])
    return metric.value(normal_of(chain, site, stats.__getitem__)) if stats or site.norm else None


def _states(stat: Switches | None) -> dict[str, float]:
    """Share of all inputs in each state."""
    if stat is None:
        return {}
    counts = stat.counts().sum(1).double()
    return dict(zip(STATES, (counts / counts.sum()).tolist(), strict=True))


def rank_sites(sites: Sequence[SiteInfo]) -> tuple[dict[str, Any], ...]:
    """The activations, least switching first by mean rank; equal values share a rank."""
    names = list(dict.fromkeys(name for site in sites for name, value in site.values.items() if value is not None))
    known = {name: [value for site in sites if (value := site.values[name]) is not None] for name in names}
    rows = []
    for site in sites:
        ranks = {name: 1 + sum(other < own for other in known[name]) for name in names if (own := site.values[name]) is not None}
        rows.append({"path": site.path, "ranks": ranks, "mean_rank": sum(ranks.values()) / len(ranks) if ranks else None})
    return tuple(sorted(rows, key=lambda row: (row["mean_rank"] is None, row["mean_rank"] or 0)))
