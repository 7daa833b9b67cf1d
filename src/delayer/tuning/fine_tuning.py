"""A short fine-tune of a cut network with the original as teacher: everything, or the cut's neighbourhood."""

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import model_validator
from torch import Tensor, nn

from delayer.errors import NotFiniteError
from delayer.network.calling import call, first_tensor, output_of, ready, seed_
from delayer.network.precision import multiplying
from delayer.study import Count, Grade, Index, Record
from delayer.tasks import Task, evaluate, predictions
from delayer.tasks.splits import Batch, Split, rebatched, shortened
from delayer.tuning.asked import asked_of, check_taught
from delayer.tuning.augment import augmented
from delayer.tuning.distillation import distance
from delayer.tuning.hidden import comparing
from delayer.tuning.low_rank import adapters
from delayer.tuning.optimising import optimizer_for, rate_at, trained_parameters
from delayer.tuning.options import TuneOptions
from delayer.tuning.recomputing import recomputing
from delayer.tuning.training import Moments, Place, Training, TuneEpoch, check_epochs

PRIME = 1_000_003
"""Keeps the random numbers of one seed's steps apart from those of the next seed's."""


class TuneReport(Record):
    """What a fine-tune did; all grades are on the validation split."""

    before: Grade
    after: Grade
    best_epoch: Index
    """The epoch whose weights the network has now; 0 where none was better than what it began with."""
    retreats: Index = 0
    """How often training began again at a third of the rate."""
    epochs: tuple[TuneEpoch, ...]
    num_steps: Count
    num_params: Count
    """Parameters that were trained."""
    note: str
    """What happened, in one sentence."""

    @model_validator(mode="after")
    def _agrees(self) -> "TuneReport":
        check_epochs(self.epochs, self.best_epoch)
        return self


def tune(
    model: nn.Module, task: Task, teacher: nn.Module | None = None, options: TuneOptions | None = None, **more: Any
) -> tuple[nn.Module, TuneReport]:
    """A fine-tuned copy of a network, and what happened; see `tune_`, which takes the same and works in place."""
    copy = deepcopy(model)
    return copy, tune_(copy, task, teacher, options, **more)


def tune_(
    model: nn.Module,
    task: Task,
    teacher: nn.Module | None = None,
    options: TuneOptions | None = None,
    *,
    counterparts: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    penalty: Callable[[], Tensor] | None = None,
    warm: Moments | None = None,
    checkpoint: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> TuneReport:
    """Fine-tune a network in place on the fit split, and get what happened.

    It ends with the weights of the epoch that was best on the validation split, or with those it began with
    if none was better. A loss or an output that is not finite ends the run there. The test split is not read.
    Modes, places and `requires_grad` are left as they were.
    teacher: the original network, whose answers are imitated; None to learn from labels alone.
    counterparts: by path of a module, that of the teacher's whose hidden state it should give (`counterparts(chain, plan)`);
    `options.hidden_weight` says how much that counts.
    only: names of the parameters to train, such as `neighbourhood(chain, plan)`; None for all. Every other
    parameter keeps each bit, and so do the statistics of batch norms, unless `options.update_norms` is set.
    masks: by parameter name, the weights that stay zero wherever a mask is false.
    penalty: is added to the loss of every step.
    warm: what the optimiser remembers of an earlier run, and afterwards of this one; an empty dictionary to begin with.
    checkpoint: a file to go on from if it is there, and to write as the run goes; a killed run goes on to the
    very result of an unbroken one. It stays when the run is over: delete it once the network is saved.
    progress: called with (steps done, steps in all). device: where to run; by default where the model is.
    seed: decides dropout and the order of the batches; which samples share a batch is the task's.
    Raises DataError when there is nothing to learn from, ModelError for parameters that the network lacks and
    for a network that would teach itself, StudyError for a checkpoint of another run.
    Source: protocol C of RBA (Cannistraci et al., arXiv 2410.04941): AdamW, cosine, label smoothing 0.1.
    Fidelity: theirs learns from labels alone, and from all of them; teacher, warm-up and clipping are ours.
    """
    options = options or TuneOptions()
    fit = _fit(task, options)
    check_taught(model, task, teacher, options, counterparts)
    asked = asked_of(model, task, teacher, options, counterparts, only, seed)
    num_steps, stopped = options.epochs * len(fit), ""
    with ExitStack() as stack:
        there = first_tensor(stack.enter_context(ready(model, torch.empty(0), device))).device
        reference = None
        if teacher is not None:
            stack.enter_context(ready(teacher, torch.empty(0), there))
            reference = predictions(teacher, task.batches("validation"), device=there)
        place = Place(asked=asked, before=evaluate(model, task, reference=reference, device=there))
        if options.lora:
            only = stack.enter_context(adapters(model, options.lora, only))
        trained = stack.enter_context(trained_parameters(model, only, update_norms=options.update_norms))
        if options.save_memory:
            stack.enter_context(recomputing(model))
        apart = None
        if options.hidden_weight and teacher is not None and counterparts is not None:  # as `check_taught` asks
            apart = stack.enter_context(comparing(model, teacher, counterparts))
        stack.enter_context(torch.random.fork_rng(devices=[there] if there.type == "cuda" else []))
        run = Training(
            model,
            trained,
            place,
            optimizer_for(
                trained,
                options.optimizer,
                weight_decay=options.weight_decay,
                momentum=options.momentum,
                relative=options.relative,
            ),
            warm,
        )
        milestones = [epoch * len(fit) for epoch in options.milestones]
        if checkpoint:
            run.resume_(Path(checkpoint))
        while (epoch := len(run.place.epochs)) < options.epochs and not stopped:
            shuffle = torch.Generator().manual_seed(seed * PRIME + epoch)
            order = torch.randperm(len(fit), generator=shuffle).tolist()
            for batch in fit.read(order[run.place.step - epoch * len(fit) :]):
                step, since = run.place.step, run.place.retreats * len(fit)
                seed_(seed * PRIME + step)  # a resumed run meets the same dropout
                rate = rate_at(
                    step - since,
                    num_steps - since,
                    peak=options.learning_rate / 3**run.place.retreats,
                    warmup=options.warmup,
                    milestones=[milestone - since for milestone in milestones],
                )
                batch = batch.to(there)
                loss = _loss(model, teacher, batch, task, options)
                if apart is not None:
                    with torch.enable_grad():
                        loss = loss + options.hidden_weight * apart(*batch.masks)
                if penalty is not None:
                    with torch.enable_grad():
                        loss = loss + penalty()
                if not run.step_(loss, rate=rate, clip=options.clip):
                    stopped = f"the loss was not finite in step {step + 1} of {num_steps}"
                    break
                _mask_(trained, masks)
                if progress:
                    progress(step + 1, num_steps)
                if checkpoint and (step + 1) % options.checkpoint_steps == 0:
                    run.save(Path(checkpoint))
            else:
                try:
                    run.end_epoch(evaluate(model, task, reference=reference, device=there), len(fit))
                    if options.retreat and not run.place.best_epoch:
                        run.retreat_()
                except NotFiniteError:
                    stopped = f"the outputs were not finite after epoch {epoch + 1} of {options.epochs}"
                if checkpoint and not stopped:
                    run.save(Path(checkpoint))
        run.finish_()
        if warm is not None:
            warm.clear()
            warm.update(run.moments())
    place = run.place
    return TuneReport(
        before=place.before,
        after=place.best,
        best_epoch=place.best_epoch,
        retreats=place.retreats,
        epochs=tuple(place.epochs),
        num_steps=place.step,
        num_params=sum(p.numel() for p in trained.values()),
        note=_note(place, options, stopped),
    )


def _fit(task: Task, options: TuneOptions) -> Split:
    """The batches to learn from."""
    fit = task.batches("fit")
    if options.tokens:
        fit = shortened(fit, fit.num_samples, options.tokens)
    return rebatched(fit, options.step_tokens) if options.step_tokens else fit


def _mask_(trained: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None) -> None:
    with torch.no_grad():
        for name, mask in (masks or {}).items():
            trained[name].mul_(mask.to(trained[name].device))


def _loss(model: nn.Module, teacher: nn.Module | None, batch: Batch, task: Task, options: TuneOptions) -> Tensor:
    batch = replace(batch, inputs=augmented(batch.inputs, flip=options.flip, shift=options.shift))
    asks = options.teacher_weight or options.hidden_weight
    taught = None
    if teacher is not None and asks:
        with multiplying(teacher):
            taught = output_of(call(teacher, batch.inputs))
    with torch.enable_grad():
        with multiplying(model):
            answer = output_of(call(model, batch.inputs))
        return distance(
            answer,
            taught,
            batch,
            task.kind,
            temperature=options.temperature,
            teacher_weight=options.teacher_weight,
            label_weight=options.label_weight,
            label_smoothing=options.label_smoothing,
        )


def _note(place: Place, options: TuneOptions, stopped: str) -> str:
    grade = place.before
    begin = f"Fine-tuning stopped: {stopped}. " if stopped else ""
    if not place.best_epoch:
        return (
            f"{begin}No epoch was better on validation data than what fine-tuning began with ({grade.name} "
            f"{grade.value:.4g}{grade.unit}), so those weights are back."
        )
    return (
        f"{begin}Epoch {place.best_epoch} of {options.epochs} was the best on validation data: {grade.name} "
        f"{grade.value:.4g}{grade.unit} before, {place.best.value:.4g}{grade.unit} after."
    )
