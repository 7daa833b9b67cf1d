"""Stage: activations made linear, round after round, and saved as a plan."""

from pathlib import Path

from torch import nn

from delayer.cutting import Plan
from delayer.edits.fuse import Fuse
from delayer.network.calling import example_of
from delayer.network.chain import Chain
from delayer.network.notes import note_
from delayer.shrinking import ShrinkOptions, merge_faster_, shrink
from delayer.stages.artefacts import finish, stage_key
from delayer.stages.standing import bring_back_, find, put_, saved_in
from delayer.stages.work import Work
from delayer.store import Made
from delayer.study import MergeInfo, Record, Round, read_record, write_atomically
from delayer.study.marks import MODEL, file_hash, read_marks


def shrink_stage(work: Work, options: ShrinkOptions = ShrinkOptions()) -> tuple[nn.Module, Plan]:
    """model/ and shrink.json, the plan in model/; a killed run goes on in the middle of its round."""
    key = stage_key(work, "shrink", options, work.task_options, *saved_in(work))
    lineage = (Made(stage="shrink", key=key),)
    if (
        work.study.has("shrink")
        and file_hash(work.study.path("shrink.json")) == _hash_then(work, key)
        and (folder := find(work, lineage))
    ):
        work.say_finished("shrink")
        small, plan = bring_back_(work, folder)
        finish(work, "shrink", key, ["shrink.json", MODEL], ["plan.json"])
        return small, plan

    state = work.study.path(".shrink") / key
    with work.reporter.step("Making activations linear") as tick:
        small, edits, shrunk = shrink(
            work.chain,
            work.task,
            options,
            example=work.example,
            folder=state,
            seed=work.seed,
            on_round=lambda one, _: work.reporter.line(round_line(one)),
            progress=tick,
        )
    small.model.eval()
    merged, found = _merged_(work, small, options, state / "merges.json")
    shrunk = shrunk.model_copy(update={"merges": found})
    plan = Plan(
        model=work.name,
        model_hash=work.model_hash,
        data_hash=work.task.hash,
        num_blocks=work.chain.num_blocks,
        edits=edits + merged,
        seed=work.seed,
    )
    note_(small.model, delayer_edits=plan.edits)
    put_(work, small.model, plan, lineage)
    work.study.write("shrink", shrunk)
    finish(work, "shrink", key, ["shrink.json", MODEL], ["plan.json"])
    work.notes.append(shrunk.note)
    work.reporter.line(shrunk.note)
    return small.model, plan


class _Merges(Record):
    """Which linear neighbours were merged: decided by the clock, so that it is decided once."""

    edits: tuple[Fuse, ...]
    found: tuple[MergeInfo, ...]


def _merged_(work: Work, small: Chain, options: ShrinkOptions, path: Path) -> tuple[tuple[Fuse, ...], tuple[MergeInfo, ...]]:
    """Merge what is faster merged, or what a run that was killed behind its measuring had found to be."""
    if path.exists():
        merges = read_record(path, _Merges)
        for edit in merges.edits:
            edit.apply_(small)
        return merges.edits, merges.found
    with work.reporter.step("Merging what became linear") as tick:
        edits, found = merge_faster_(
            small, example_of(work.example, 1), batch_size=options.merge_batch, seed=work.seed, progress=tick
        )
    write_atomically(path, _Merges(edits=edits, found=found).model_dump_json(indent=1))
    return edits, found


def _hash_then(work: Work, key: str) -> str | None:
    """The hash that shrink.json had when this very shrinking was done; None where it was not, or where another was since."""
    mark = read_marks(work.study).get("shrink")
    return mark.files.get("shrink.json") if mark and mark.key == key else None


def round_line(one: Round) -> str:
    """A round in one line."""
    what = ", ".join(one.sites[:3]) + (f" and {len(one.sites) - 3} more" if len(one.sites) > 3 else "")
    return (
        f"Round {one.number}: {what} ({one.why}); {one.after.name} {one.before.value:.2f} → {one.after.value:.2f}"
        f"{one.after.unit}, {'kept' if one.kept else 'rolled back'}, {one.left} left"
        + (f", {one.speedup:.2f} times as fast" if one.speedup else "")
    )
