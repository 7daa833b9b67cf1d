"""The loop over rounds, which can be killed at any moment and goes on to the very same result."""

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor

from delayer.calling import Inputs
from delayer.chain import Chain
from delayer.edits.linearise import Linearise
from delayer.errors import NotFiniteError, StudyError
from delayer.hashing import model_hash
from delayer.planner import drop_of
from delayer.shrink.look import Look
from delayer.shrink.options import Round, Shrunk, ShrinkOptions
from delayer.shrink.schedules import schedules
from delayer.sites import sites_
from delayer.study import Grade, write_atomically
from delayer.tasks import Task, evaluate, predictions
from delayer.shrink.recipe import recipe
from delayer.tune import tune_
from delayer.tune.checkpoint import read_checkpoint, save_checkpoint


class _Place(BaseModel):
    """Where a shrinking stands between two rounds."""

    asked: dict[str, str]
    original: Grade
    grade: Grade
    edits: list[Linearise] = []
    rounds: list[Round] = []
    step: int = 0
    """Most activations that the next round may remove; halved after a round that was rolled back."""
    note: str = ""
    """Why it is over; "" while it is not."""


def shrink_until(chain: Chain, task: Task, options: ShrinkOptions | None = None, *, example: Inputs,
                 folder: str | Path | None = None, seed: int = 0, on_round: Callable[[Round], None] | None = None,
                 progress: Callable[[int, int], None] | None = None) -> tuple[Chain, Shrunk]:
    """A copy of a chain whose activations were made linear, round after round, and what each round did.

    A round chooses by the schedule, makes the chosen activations linear, fine-tunes, and validates. It stays while the
    validation grade is within the tolerance; else the network is put back bit for bit, and the shrinking ends there or,
    where the schedule says so, tries half as many at once.
    example: inputs of a small batch. folder: where the state lies, so that a killed run goes on; None keeps no state.
    progress: called with (steps done, steps in all) of a round's training.
    Raises ModelError without activations or where a forward pass cannot be traced, UnknownName for the schedule,
    StudyError when the folder holds another run. The test split is not read.
    """
    options = options or ShrinkOptions()
    schedule = schedules[options.schedule]
    reference = predictions(chain.model, task.batches("validation"))
    original = evaluate(chain.model, task, "validation", reference=reference, seed=seed)
    small = Chain(deepcopy(chain.model), chain.family, chain.blocks)
    sites = sites_(small, example)
    asked = {name: str(value) for name, value in options.model_dump().items()}
    asked |= {"network": model_hash(chain.model), "data": task.hash, "seed": str(seed)}
    place = _Place(asked=asked, original=original, grade=original, step=options.a_round)
    masks: dict[str, Tensor] = {}
    folder = Path(folder) if folder else None
    if folder and (found := read_checkpoint(folder / "shrink.safetensors", _Place)):
        place = _resumed_(small, found, asked, masks, folder)
    wanted = options.remove or len(sites)
    while not place.note:
        left = [site for site in sites if site.path not in {edit.site for edit in place.edits}]
        if len(place.edits) >= wanted or not left:
            place.note = f"{len(place.edits)} of {len(sites)} activations are gone, as many as were asked for."
            break
        number, begin = len(place.rounds) + 1, time.perf_counter()
        before, masks_before = deepcopy(small.model), dict(masks)
        tuned: list[int] = []

        def train_(epochs: int, penalty: Callable[[], Tensor] | None = None, *, number=number, tuned=tuned) -> bool:
            tuned.append(epochs)
            file = folder / f"round-{number}-{len(tuned)}.safetensors" if folder else None
            teacher = chain.model if schedule.teacher else None
            report = tune_(small.model, task, teacher, recipe(small.model, options, epochs, teacher=schedule.teacher), masks=masks,
                           penalty=penalty, checkpoint=file, progress=progress, seed=seed * 1009 + number)
            return len(report.epochs) == epochs

        look = Look(small, left, task, options, number=number, seed=seed, reference=reference, masks=masks, tune_=train_)
        chosen, why = schedule.choose(look, min(place.step, wanted - len(place.edits)))
        if not chosen:
            place.note = f"{options.schedule} finds nothing more to remove: {why}."
            small.model = before
            break
        for edit in chosen:
            edit.apply_(small, look)
        try:
            joint = look.grade()
            finished = train_(max(0, options.epochs - sum(tuned)))
            after = look.grade()
            kept = finished and drop_of(original, after) <= options.tolerance
        except NotFiniteError as error:
            joint = after = place.grade
            kept, why = False, f"{why}; {error}"
        if kept:
            place.edits += chosen
            place.grade = after
        else:
            small.model = before
            masks.clear()
            masks |= masks_before
            if schedule.retries and len(chosen) > 1:
                place.step = max(1, len(chosen) // 2)
            else:
                place.note = _why_over(place, original, after, options)
        place.rounds.append(Round(
            number=number, sites=tuple(e.site for e in chosen), why=why, before=joint, after=after, kept=kept,
            epochs=sum(tuned), seconds=time.perf_counter() - begin, left=len(sites) - len(place.edits)))
        if on_round:
            on_round(place.rounds[-1])
        if folder:
            _keep(folder, small, place, masks)
    if folder:
        _keep(folder, small, place, masks)
    return small, Shrunk(schedule=options.schedule, original=original, grade=place.grade, num_sites=len(sites),
                         edits=tuple(place.edits), rounds=tuple(place.rounds), note=place.note)


def _resumed_(small: Chain, found: tuple[dict[str, Tensor], _Place], asked: dict[str, str], masks: dict[str, Tensor],
              folder: Path) -> _Place:
    """Put a shrinking's state back. Raises StudyError for the state of another run."""
    tensors, place = found
    if other := sorted(name for name, value in asked.items() if place.asked.get(name) != value):
        raise StudyError(f"{folder} holds another shrinking: its {', '.join(other)} differ. Choose another folder.")
    for edit in place.edits:
        edit.apply_(small)
    small.model.load_state_dict({name[4:]: tensor for name, tensor in tensors.items() if name.startswith("now ")})
    masks |= {name[5:]: tensor.bool() for name, tensor in tensors.items() if name.startswith("mask ")}
    return place


def _keep(folder: Path, small: Chain, place: _Place, masks: dict[str, Tensor]) -> None:
    """Write the state, a JSON line a round, and clear the finished round's checkpoints away."""
    tensors = {f"now {name}": tensor for name, tensor in small.model.state_dict().items()}
    save_checkpoint(folder / "shrink.safetensors", tensors | {f"mask {k}": m.byte() for k, m in masks.items()}, place)
    write_atomically(folder / "rounds.jsonl", "".join(one.model_dump_json() + "\n" for one in place.rounds))
    for file in folder.glob("round-*.safetensors"):
        file.unlink()


def _why_over(place: _Place, original: Grade, after: Grade, options: ShrinkOptions) -> str:
    fell = f"the validation {after.name} fell by {drop_of(original, after):.2f}, and {options.tolerance:g} are allowed"
    if not place.edits:
        return f"No activation can go: {fell}. This is the original network; allow more by --tolerance, or train longer."
    return f"The next round was rolled back: {fell}."
