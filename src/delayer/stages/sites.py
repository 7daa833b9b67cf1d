"""Stage: how much each activation switches."""

from pydantic import Field

from delayer.search.scoring_sites import sites
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.work import Work
from delayer.study import Record, Sites


class SitesOptions(Record):
    """What is read of the activations."""

    data_free: bool = False
    """Read norm parameters alone, without a pass over data."""
    chunk: int = Field(default=128, ge=1)
    """Samples a batch, for entropies that are means over batches."""


def sites_stage(work: Work, options: SitesOptions = SitesOptions()) -> Sites:
    """sites.json: every activation, what every site metric says of it, and a ranking."""
    if sites_stand(work, options):
        return work.study.read("sites")
    with work.reporter.step(f"Watching activations on {work.data[0]}") as tick:
        found = sites(
            work.chain,
            work.task.batches("fit"),
            data_free=options.data_free,
            batch_size=options.chunk,
            data=work.data[0],
            progress=tick,
        )
    return keep_sites(work, options, found)


def sites_stand(work: Work, options: SitesOptions) -> bool:
    """Whether sites.json stands for what is asked now."""
    return is_finished(work, "sites", _key(work, options))


def keep_sites(work: Work, options: SitesOptions, found: Sites) -> Sites:
    """Write sites.json, whoever's pass it came from."""
    work.study.write("sites", found)
    finish(work, "sites", _key(work, options), ["sites.json"])
    return found


def _key(work: Work, options: SitesOptions) -> str:
    return stage_key(work, "sites", options, work.task_options)
