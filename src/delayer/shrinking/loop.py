"""The loop over rounds, which can be killed at any moment and goes on to the very same result."""

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, SerializeAsAny, field_validator
from torch import Tensor

from delayer.activations.sites import Site, sites_
from delayer.edits import Edit, edit_from
from delayer.errors import BudgetError, ModelError, NotFiniteError, StudyError
from delayer.measure import compare_latency
from delayer.network.calling import Inputs, with_batch
from delayer.network.chain import Chain
from delayer.network.hashing import model_hash
from delayer.observing.one_pass import device_of
from delayer.registry.options import own_options
from delayer.search.judging import drop_of
from delayer.shrinking.look import Look
from delayer.shrinking.options import SCHEDULE_OPTIONS, ShrinkOptions
from delayer.shrinking.racing import merge_faster_
from delayer.shrinking.recipe import recipe
from delayer.shrinking.schedules import schedules
from delayer.study import Grade, Index, Round, Shrunk, write_atomically
from delayer.tasks import Task, evaluate, predictions
from delayer.tuning import tune_
from delayer.tuning.checkpoint import put_back_, read_checkpoint, save_checkpoint
from delayer.tuning.training import Moments

MOST_RETREATS = 2
"""Later rounds begin at a ninth of the rate at least: where training helped nothing, there may have been nothing to gain."""


class _Place(BaseModel):
    """Where a shrinking stands between two rounds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    asked: dict[str, str]
    original: Grade
    grade: Grade
    edits: list[SerializeAsAny[Edit]] = []
    rounds: list[Round] = []
    step: Index = 0
    """Most activations that the next round may remove; halved after a round that was rolled back."""
    retreats: Index = 0
    """How often training had to begin again at a third of the rate; later rounds begin at what was left."""
    note: str = ""
    """Why it is over; "" while it is not."""

    @field_validator("edits", mode="before")
    @classmethod
    def _edits(cls, value: Any) -> list[Edit]:
        if not isinstance(value, list | tuple):
            raise ValueError("the edits are a list")
        return [edit_from(item) for item in value]


def shrink(
    chain: Chain,
    task: Task,
    options: ShrinkOptions | None = None,
    *,
    example: Inputs,
    folder: str | Path | None = None,
    seed: int = 0,
    on_round: Callable[[Round, Chain], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Chain, tuple[Edit, ...], Shrunk]:
    """A copy of a chain whose activations were made linear, round after round, the edits, and what each round did.

    A round chooses by the schedule, makes the chosen activations linear, fine-tunes, and validates. It stays while the
    validation grade is within the tolerance; else the network is put back bit for bit, and the shrinking ends there or,
    where the schedule says so, tries half as many at once.
    example: inputs of a small batch. folder: where the state lies, so that a killed run goes on; None keeps no state.
    on_round: called after each round with the round and the chain as it is then.
    progress: called with (steps done, steps in all) of a round's training.
    Raises BudgetError for more activations than there are, ModelError without any or where a forward pass cannot be traced,
    UnknownName for the schedule, StudyError when the folder holds another run. The test split is not read.
    """
    run = _Run(chain, task, options or ShrinkOptions(), example, Path(folder) if folder else None, seed, progress)
    while not run.place.note:
        if done := run.round_():
            if on_round:
                on_round(done, run.small)
            run.keep()
    run.keep()
    place = run.place
    return (
        run.small,
        tuple(place.edits),
        Shrunk(
            schedule=run.options.schedule,
            original=place.original,
            grade=place.grade,
            num_sites=len(run.sites),
            edits=tuple(edit.info() for edit in place.edits),
            rounds=tuple(place.rounds),
            note=place.note,
        ),
    )


class _Run:
    """The network while it shrinks, and where the shrinking stands."""

    def __init__(
        self,
        chain: Chain,
        task: Task,
        options: ShrinkOptions,
        example: Inputs,
        folder: Path | None,
        seed: int,
        progress: Callable[[int, int], None] | None,
    ):
        self.chain, self.task, self.options = chain, task, options
        self.folder, self.seed, self.progress = folder, seed, progress
        self.schedule = schedules[options.schedule]
        SCHEDULE_OPTIONS.check(options.schedule_options, [options.schedule])
        if self.schedule.options is not None:
            own_options(self.schedule.options, options.schedule_options)
        self.small = chain.copy()
        self.example, self.sites = example, sites_(self.small, example)
        if options.remove > len(self.sites):
            raise BudgetError(
                f"{options.remove} activations are to be removed, and {type(chain.model).__name__} has "
                f"{len(self.sites)}. Ask for as many at most."
            )
        self.reference = predictions(chain.model, task.batches("validation"))
        original = evaluate(chain.model, task, "validation", reference=self.reference, seed=seed)
        self.wanted = options.remove or len(self.sites)
        self.masks: dict[str, Tensor] = {}
        self.warm: Moments | None = {} if self.schedule.warm else None
        asked = {name: str(value) for name, value in options.model_dump().items()}
        asked |= {"network": model_hash(chain.model), "data": task.hash, "seed": str(seed)}
        self.place = _Place(asked=asked, original=original, grade=original, step=options.a_round or self.schedule.a_round)
        if folder and (found := read_checkpoint(folder / "shrink.safetensors", _Place)):
            self._resume_(folder, *found)

    def round_(self) -> Round | None:
        """One round; None, and a note, where there is nothing left to do."""
        place, small, begin = self.place, self.small, time.perf_counter()
        left = self._left()
        num_gone = len(self.sites) - len(left)
        most = min(place.step, self.wanted - num_gone, len(left))
        if most <= 0:
            place.note = f"{num_gone} of {len(self.sites)} activations are gone, as many as were asked for."
            return None
        still = {site.path for site in left}
        touched = {site.block for site in self.sites if site.path not in still and site.block is not None}
        number, before, masks = len(place.rounds) + 1, deepcopy(small.model), dict(self.masks)
        warm = dict(self.warm) if self.warm is not None else None
        self.tuned: list[int] = []
        look = Look(
            small,
            self.chain,
            left,
            self.task,
            self.options,
            number=number,
            seed=self.seed,
            reference=self.reference,
            masks=self.masks,
            tune_=self._tune_,
            touched=touched,
        )
        chosen, why = self.schedule.choose(look, most)
        if not chosen and _same(self.masks, masks):
            place.note = f"{self.options.schedule} finds nothing more to remove: {why}."
            small.model = before
            return None
        silenced = tuple(path for edit in chosen for path in edit.silenced(left))
        look.make_(chosen)
        try:
            joint = look.grade()
            finished = self._tune_(max(0, self.options.epochs - sum(self.tuned)))
            after = look.grade()
            kept = finished and drop_of(place.original, after) <= self.options.tolerance
        except NotFiniteError as error:
            joint = after = place.grade
            kept, why = False, f"{why}; {error}"
        speedup = None
        if kept:
            place.edits += chosen
            place.grade = after
            if self.options.speedup and (speedup := self._speedup()) >= self.options.speedup:
                place.note = (
                    f"Merged, the network is {speedup:.2f} times as fast as the original, and "
                    f"{self.options.speedup:g} was asked for."
                )
        else:
            small.model, self.masks, self.warm = before, masks, warm
            if self.schedule.retries and len(chosen) > 1:
                place.step = len(silenced) // 2
            else:
                place.note = _why_over(place, after, self.options)
        place.rounds.append(
            Round(
                number=number,
                sites=silenced,
                why=why,
                before=joint,
                after=after,
                kept=kept,
                epochs=sum(self.tuned),
                seconds=time.perf_counter() - begin,
                left=len(left) - len(silenced) * kept,
                speedup=speedup,
            )
        )
        return place.rounds[-1]

    def _left(self) -> tuple[Site, ...]:
        """Activations that are still there."""
        try:
            return sites_(self.small, self.example)
        except ModelError:  # none
            return ()

    def _speedup(self) -> float:
        """Of a copy whose linear neighbours are merged, at the batch size that merges are measured at."""
        merged, size = self.small.copy(), self.options.merge_batch
        merged.model.eval()
        merge_faster_(merged, with_batch(self.example, 1), batch_size=size, seconds=0.3, seed=self.seed)
        [time] = compare_latency(
            self.chain.model, merged.model, self.example, (size,), seconds=2.0, device=device_of(merged.model), seed=self.seed
        )
        return time.speedup

    def _tune_(self, epochs: int, penalty: Callable[[], Tensor] | None = None) -> bool:
        """Train the network as it stands; whether it came to the end."""
        self.tuned.append(epochs)
        number, schedule = len(self.place.rounds) + 1, self.schedule
        how = recipe(self.small.model, self.options, epochs, teacher=schedule.teacher)
        report = tune_(
            self.small.model,
            self.task,
            self.chain.model if schedule.teacher else None,
            how.model_copy(update={"learning_rate": how.learning_rate / 3**self.place.retreats}),
            masks=self.masks,
            penalty=penalty,
            warm=self.warm,
            checkpoint=self.folder and self.folder / f"round-{number}-{len(self.tuned)}.safetensors",
            progress=self.progress,
            seed=self.seed * 1009 + number,
        )
        self.place.retreats = min(self.place.retreats + report.retreats, MOST_RETREATS)
        return len(report.epochs) == epochs

    def keep(self) -> None:
        """Write the state and a JSON line a round, and clear the finished round's checkpoints away."""
        if not self.folder:
            return
        tensors = {f"now {name}": tensor for name, tensor in self.small.model.state_dict().items()}
        tensors |= {f"mask {name}": mask.byte() for name, mask in self.masks.items()}
        tensors |= {f"warm {kind} {name}": t for name, state in (self.warm or {}).items() for kind, t in state.items()}
        save_checkpoint(self.folder / "shrink.safetensors", tensors, self.place)
        write_atomically(self.folder / "rounds.jsonl", "".join(f"{one.model_dump_json()}\n" for one in self.place.rounds))
        for file in self.folder.glob("round-*.safetensors"):
            file.unlink()

    def _resume_(self, folder: Path, tensors: dict[str, Tensor], place: _Place) -> None:
        """Put a state back. Raises StudyError for that of another run."""
        if other := sorted(name for name, value in self.place.asked.items() if place.asked.get(name) != value):
            raise StudyError(f"{folder} holds another shrinking: its {', '.join(other)} differ. Choose another folder.")
        path = folder / "shrink.safetensors"
        for edit in place.edits:
            edit.apply_(self.small)
        now = {name[4:]: t for name, t in tensors.items() if name.startswith("now ")}
        put_back_({name: t for name, t in self.small.model.state_dict().items() if isinstance(t, Tensor)}, now, path)
        self.place = place
        self.masks = {name[5:]: t.bool() for name, t in tensors.items() if name.startswith("mask ")}
        for key, tensor in tensors.items():
            if key.startswith("warm ") and self.warm is not None:
                _, kind, name = key.split(" ", 2)
                self.warm.setdefault(name, {})[kind] = tensor


def _same(masks: dict[str, Tensor], before: dict[str, Tensor]) -> bool:
    return masks.keys() == before.keys() and all(torch.equal(mask, before[name]) for name, mask in masks.items())


def _why_over(place: _Place, after: Grade, options: ShrinkOptions) -> str:
    fell = f"the validation {after.name} fell by {drop_of(place.original, after):.2f}, and {options.tolerance:g} are allowed"
    if not place.edits:
        return f"No activation can go: {fell}. This is the original network; allow more by --tolerance, or train longer."
    return f"The next round was rolled back: {fell}."
