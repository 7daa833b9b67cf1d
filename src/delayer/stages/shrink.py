"""Stage: activations made linear, round after round, and saved as a plan."""

from torch import nn

from delayer.plan import Plan, read_plan
from delayer.shrink import ShrinkOptions, merge_faster_, shrink_until
from delayer.stages.work import Work, is_finished, mark_finished, stage_key
from delayer.store import example_of, load, save
from delayer.study import Round


def shrink_stage(work: Work, options: ShrinkOptions = ShrinkOptions()) -> tuple[nn.Module, Plan]:
    """model/, plan.json and shrink.json; a killed run goes on in the middle of its round."""
    key, path = stage_key(work, "shrink", options, work.task_options), work.study.path("plan.json")
    if work.study.has("shrink") and path.exists() and is_finished(work, "shrink", key):
        return load(str(work.study.path("model"))).to(work.device), read_plan(path)

    with work.reporter.step("Making activations linear") as tick:
        small, edits, shrunk = shrink_until(
            work.chain, work.task, options, example=work.example, folder=work.study.path(".shrink"), seed=work.seed,
            on_round=lambda one, _: work.reporter.line(said(one)), progress=tick)
    small.model.eval()
    with work.reporter.step("Merging what became linear") as tick:
        merged, found = merge_faster_(small, example_of(work.example, 1), batch_size=options.merge_batch, seed=work.seed,
                                      progress=tick)
    shrunk = shrunk.model_copy(update={"merges": found})
    edits += merged
    plan = Plan(model=work.name, model_hash=work.model_hash, data_hash=work.task.hash, num_blocks=work.chain.num_blocks,
                edits=edits, seed=work.seed)
    small.model.delayer_edits = plan.edits
    save(small.model, plan, work.chain, work.study.path("model"), example=work.example)
    plan.save(path)
    work.study.write("shrink", shrunk)
    mark_finished(work, "shrink", key)
    work.notes.append(shrunk.note)
    work.reporter.line(shrunk.note)
    return small.model, plan


def said(one: Round) -> str:
    """A round in one line."""
    what = ", ".join(one.sites[:3]) + (f" and {len(one.sites) - 3} more" if len(one.sites) > 3 else "")
    return (f"Round {one.number}: {what} ({one.why}); {one.after.name} {one.before.value:.2f} → {one.after.value:.2f}"
            f"{one.after.unit}, {'kept' if one.kept else 'rolled back'}, {one.left} left"
            + (f", {one.speedup:.2f} times as fast" if one.speedup else ""))
