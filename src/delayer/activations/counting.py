"""The switch statistics of all activations at once, from the pass over data that all statistics share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.activations.normal import Normal, from_norm
from delayer.activations.sites import Site, sites_
from delayer.activations.switches import Switches
from delayer.errors import DataError, ModelError, NotFiniteError, PlanError
from delayer.network.calling import with_batch
from delayer.network.chain import Chain
from delayer.network.hooks import hooked
from delayer.observing.one_pass import device_of, observe
from delayer.observing.rows import positions


@contextmanager
def watching_sites(chain: Chain, sites: Sequence[Site], see: Callable[[Site, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside: `see(site, z, y)` at each activation, inputs kept as they were before an in-place activation.

    Hooks go away also after an exception. The model's mode is the caller's business.
    """
    inputs: dict[Site, Tensor] = {}

    def before(site: Site) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
            inputs[site] = args[0].detach().clone() if getattr(module, "inplace", False) else args[0].detach()

        return keep

    def after(site: Site) -> Callable[..., None]:
        return lambda module, args, output: see(site, inputs.pop(site), output.detach())

    modules = [(site, chain.model.get_submodule(site.path)) for site in sites]
    with hooked(before=[(module, before(site)) for site, module in modules], after=[(m, after(site)) for site, m in modules]):
        yield


class SiteWatcher:
    """The switch statistics of activations, by path, filled by the pass that `observe` makes over data.

    chain, sites: from `sites_`; the pass must be one of this chain. batch_size: samples a chunk of the statistics' own.
    Raises ModelError for a batch norm that has no running statistics.
    """

    def __init__(self, chain: Chain, sites: Sequence[Site], batch_size: int = 128):
        _check_norms(chain.model)
        self.chain, self.sites, self.batch_size = chain, sites, batch_size
        self.stats = {site.path: Switches(site.kind, batch_size) for site in sites}

    def watching(self, batch: Any) -> AbstractContextManager[None]:
        """Inside, a forward pass of the batch counts; padding is left out."""
        return watching_sites(self.chain, self.sites, seeing(self.stats, batch))

    def pool(self, add_: Callable[[Tensor], None], gather: Callable[[Any], list[Any]]) -> None:
        """Give every process what all of them have seen."""
        for stat in self.stats.values():
            stat.pool(add_, gather)

    def filled(self) -> dict[str, Switches]:
        """The statistics by path, after the pass. Raises DataError where a site saw no row."""
        if empty := [path for path, stat in self.stats.items() if not stat.num_rows]:
            raise DataError(f"No row reached {', '.join(empty[:3])}: every position is padding, or the site did not run.")
        return self.stats


def observe_sites(
    chain: Chain,
    sites: Sequence[Site],
    batches: Sequence[Any],
    *,
    batch_size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Switches]:
    """The switch statistics of every site by its path, from one pass in evaluation mode.

    batches: as for `observe`; padding is left out. batch_size: samples a chunk of the statistics' own.
    Raises DataError when there is nothing to see, NotFiniteError naming the first bad site, ModelError for a batch norm
    that has no running statistics.
    """
    watcher = SiteWatcher(chain, sites, batch_size)
    observe(chain, batches, watchers=[watcher], progress=progress)
    return watcher.filled()


def switches_of(chain: Chain, paths: Sequence[str], batches: Sequence[Any]) -> dict[str, Switches]:
    """What the data shows of some activations, in one pass. Raises PlanError for a path that is none."""
    few = batches[0].to(device_of(chain.model))
    sites = {site.path: site for site in sites_(chain, with_batch(few.inputs, min(2, len(few))))}
    if away := [path for path in paths if path not in sites]:
        raise PlanError(f"{away[0]} is no activation of this network. It has {', '.join(list(sites)[:3])} and so on.")
    return observe_sites(chain, [sites[path] for path in paths], batches)


@contextmanager
def counting_batches(chain: Chain, sites: Sequence[Site]) -> Iterator[dict[str, Switches]]:
    """Inside, every forward pass counts as one batch of the statistics of all sites, in the mode that the model is in.

    For EASIER as released, which counts while it trains: put it around the last epoch. Padding is left out where the
    model is called with an `attention_mask`.
    """
    stats, batch, mask = {site.path: Switches(site.kind, batch_size=1) for site in sites}, -1, None

    def begin(module, args, kwargs):
        nonlocal batch, mask
        batch, mask = batch + 1, kwargs.get("attention_mask")

    def see(site: Site, z: Tensor, y: Tensor) -> None:
        rows_z, rows_y, _ = _rows(site, z, y, torch.full((len(z),), batch), mask)
        stats[site.path].update(rows_z, rows_y, torch.full((len(rows_z),), batch))

    with hooked(before=[(chain.model, begin)]), watching_sites(chain, sites, see):
        yield stats


def _rows(site: Site, z: Tensor, y: Tensor, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs and outputs [n, features] of a site at real positions, and the number of each row's sample [n]."""
    rows_z, rows_y = (positions(t, site.axis) for t in (z, y))
    rows_z, rows_y = rows_z.flatten(0, 1), rows_y.flatten(0, 1)
    # Some decoders join samples and positions in the first dimension, sample by sample.
    samples = ids.to(z.device).repeat_interleave(len(rows_z) // len(ids))
    if mask is not None and mask.numel() == len(rows_z):
        real = mask.flatten().to(z.device, torch.bool)
        rows_z, rows_y, samples = rows_z[real], rows_y[real], samples[real]
    return rows_z, rows_y, samples


def _check_norms(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ModelError(
                f"The norm {path} has no running statistics, so that what passes it would depend on the batch that it is "
                "in, also in evaluation mode. Train it with track_running_stats=True."
            )


def seeing(stats: dict[str, Switches], batch: Any) -> Callable[[Site, Tensor, Tensor], None]:
    """What adds one batch's rows to the statistics of the sites that it passes."""
    ids = torch.arange(batch.start, batch.start + len(batch))

    def see(site: Site, z: Tensor, y: Tensor) -> None:
        mask = batch.mask_for(z.numel() // (z.shape[site.axis] * len(ids)))
        rows_z, rows_y, samples = _rows(site, z, y, ids, mask)
        if not torch.isfinite(rows_z.sum()) and not torch.isfinite(rows_z).all():
            raise NotFiniteError(
                f"NaN or infinity reaches the activation {site.path}, in samples {int(ids[0])} to {int(ids[-1])}. "
                "Check the weights and the data, or run in float32."
            )
        stats[site.path].update(rows_z, rows_y, samples)

    return see


def normal_of(chain: Chain, site: Site, switches: Callable[[str], Switches]) -> Normal:
    """The distribution of a site's input: its batch norm's parameters, else what the data showed.

    switches: the statistics of a path; asked for only where no batch norm feeds the site directly.
    """
    norm = None if site.norm is None else chain.model.get_submodule(site.norm)
    return from_norm(norm) if isinstance(norm, _BatchNorm) else switches(site.path).normal()
