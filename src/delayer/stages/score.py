"""Stage: what every metric says."""

from delayer.observe import observe
from delayer.scoring import correlate, rank_blocks, read_scores, stats_for
from delayer.stages.work import Work, is_finished, mark_finished, stage_key
from delayer.study import Scores
from delayer.tasks import open_task


def score_stage(work: Work) -> Scores:
    """scores.json: every metric on every data set, in one pass each; ranking, disagreements and correlations."""
    key = stage_key(work, "score", work.task_options)
    if work.study.has("scores") and is_finished(work, "score", key):
        return work.study.read("scores")
    found = []
    for number, spec in enumerate(work.data):
        task = work.task if number == 0 else open_task(spec, work.model, work.task_options)
        stats, readers = stats_for(work.chain)
        with work.reporter.step(f"Scoring on {spec}") as tick:
            observe(work.chain, task.batches("fit"), stats, seed=work.seed, progress=tick)
        found += read_scores(work.chain, readers, seed=work.seed, data=spec)
    ranking, disagreements = rank_blocks(work.chain, [s for s in found if s.data == work.data[0]])
    scores = Scores(scores=tuple(found), ranking=tuple(ranking), disagreements=tuple(disagreements),
                    correlations=tuple(correlate(found)))
    work.study.write("scores", scores)
    mark_finished(work, "score", key)
    return scores
