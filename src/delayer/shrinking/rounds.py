"""One round of a shrinking after another: choose, edit, fine-tune, validate, keep or roll back."""

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from delayer.activations.sites import Site, sites_
from delayer.errors import BudgetError, ModelError, NotFiniteError
from delayer.measure import compare_latency
from delayer.network.calling import Inputs, with_batch
from delayer.network.chain import Chain
from delayer.network.hashing import model_hash
from delayer.observing.one_pass import device_of
from delayer.registry.options import own_options
from delayer.search.judging import drop_of
from delayer.shrinking.look import Look
from delayer.shrinking.options import SCHEDULE_OPTIONS, ShrinkOptions
from delayer.shrinking.place import FILE, Place, resume_, save_place, why_over
from delayer.shrinking.racing import merge_faster_
from delayer.shrinking.recipe import recipe
from delayer.shrinking.schedules import schedules
from delayer.study import Round
from delayer.tasks import Task, evaluate, predictions
from delayer.tuning import tune_
from delayer.tuning.checkpoint import read_checkpoint
from delayer.tuning.training import Moments

MOST_RETREATS = 2
"""Later rounds begin at a ninth of the rate at least: where training helped nothing, there may have been nothing to gain."""


class Rounds:
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
        self.place = Place(asked=asked, original=original, grade=original, step=options.a_round or self.schedule.a_round)
        if folder and (found := read_checkpoint(folder / FILE, Place)):
            self.masks, warm = resume_(self.small, asked, folder, *found)
            self.place, self.warm = found[1], warm if self.schedule.warm else None

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
                place.note = why_over(place, after, self.options)
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
        """Write the state down, where there is a folder for it."""
        if self.folder:
            save_place(self.folder, self.place, self.small, self.masks, self.warm)


def _same(masks: dict[str, Tensor], before: dict[str, Tensor]) -> bool:
    return masks.keys() == before.keys() and all(torch.equal(mask, before[name]) for name, mask in masks.items())
