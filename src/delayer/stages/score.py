"""Stage: what every metric says of the network, and how it compares with others as a whole."""

from collections import Counter
from collections.abc import Sequence

from delayer.metrics.blocks import metrics
from delayer.observing.one_pass import observe
from delayer.observing.stats import Stat
from delayer.search.ranking import correlate, rank_blocks
from delayer.search.scoring import ScoreOptions, read_scores, score, stats_for
from delayer.search.scoring_sites import read_sites, watcher_of
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.sites import SitesOptions, keep_sites, sites_stage, sites_stand
from delayer.stages.work import Work
from delayer.study import Score, Scores
from delayer.tasks import open_task


def score_stage(
    work: Work, options: ScoreOptions | None = None, *, others: Sequence[Work] = (), sites: SitesOptions | None = None
) -> Scores:
    """scores.json: every metric on every data set, in one pass each; ranking, disagreements and correlations.

    options: by default what the study was asked for. others: opened networks that are scored as a whole, each on its
    own first data set, and stand beside this one whatever their depths; nothing is written for them. sites: have the
    activations watched in the same pass, for sites.json; where the scores stand already, in a pass of their own.
    """
    options = options or ScoreOptions(**{k: work.options[k] for k in ScoreOptions.model_fields if k in work.options})
    key = stage_key(work, "score", work.task_options, options, [[o.model_hash, o.task.hash] for o in others])
    if is_finished(work, "score", key):
        if sites is not None:
            sites_stage(work, sites)
        return work.study.read("scores")
    names = _names([work, *others])
    found = []
    for number, spec in enumerate(work.data):
        stats, readers = stats_for(work.chain, None, options)
        if number == 0:  # in the same pass as what later stages will ask of the fit split
            _observe(work, f"Scoring on {spec}", stats, sites)
        else:
            task = open_task(spec, work.model, work.task_options)
            with work.reporter.step(f"Scoring on {spec}") as tick:
                observe(work.chain, task.batches("fit"), stats, seed=work.seed, progress=tick)
        found += read_scores(work.chain, readers, seed=work.seed, data=spec, model=names[0], options=options)
    whole = [metrics[name].name for name in metrics if metrics[name].shape == "network"]
    networks = [one for one in found if one.shape == "network"]
    for name, other in zip(names[1:], others, strict=True):
        with work.reporter.step(f"Scoring {name}") as tick:
            networks += score(
                other.chain,
                other.task.batches("fit"),
                whole,
                options=options,
                seed=other.seed,
                data=other.data[0],
                model=name,
                progress=tick,
            )
    found = [one for one in found if one.shape != "network"]
    ranking, disagreements = rank_blocks(work.chain, [s for s in found if s.data == work.data[0]])
    scores = Scores(
        scores=tuple(found),
        ranking=tuple(ranking),
        disagreements=tuple(disagreements),
        networks=tuple(sorted(networks, key=_most_redundant_first)),
        correlations=tuple(correlate(found)),
    )
    work.study.write("scores", scores)
    finish(work, "score", key, ["scores.json"])
    return scores


def _observe(work: Work, title: str, stats: list[Stat], sites: SitesOptions | None) -> None:
    """The pass over the fit split of the first data set, in which activations are watched if they were asked for."""
    if sites is None or sites.data_free or sites_stand(work, sites):
        work.observe(title, "fit", stats)
        if sites is not None:
            sites_stage(work, sites)
        return
    batches = work.task.batches("fit")
    watcher = watcher_of(work.chain, batches, sites.chunk)
    work.observe(title, "fit", stats, watcher)
    keep_sites(work, sites, read_sites(watcher, batches, data=work.data[0]))


def _names(works: Sequence[Work]) -> list[str]:
    """The name of each network; another of the same name comes with the study folder or weights that tell it apart."""
    often, own = Counter(work.name for work in works), works[0].study.folder

    def apart(work: Work) -> str:
        return work.study.folder.name if work.study.folder != own else f"weights {work.model_hash[:8]}"

    return [works[0].name, *(w.name if often[w.name] == 1 else f"{w.name} ({apart(w)})" for w in works[1:])]


def _most_redundant_first(one: Score) -> tuple[str, float]:
    return one.name, -one.values[0] if one.redundant == "high" else one.values[0]
