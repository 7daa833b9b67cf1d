"""A short fine-tune of a cut network with the original as teacher: everything, or the cut's neighbourhood."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from delayer.errors import DataError, ModelError, NotFiniteError
from delayer.network.calling import call, first_tensor, output_of, ready, seed_
from delayer.network.hashing import model_hash
from delayer.network.precision import multiplying
from delayer.study import Count, Grade, Index, Record
from delayer.tasks import Task, evaluate, predictions
from delayer.tasks.splits import Batch, Split, rebatched, shortened
from delayer.tuning.augment import augmented
from delayer.tuning.distillation import distance
from delayer.tuning.hidden import comparing
from delayer.tuning.recomputing import recomputing
from delayer.tuning.training import Moments, Place, Training, TuneEpoch, check_epochs, optimizer_for, rate_at, trained_parameters

PRIME = 1_000_003
"""Keeps the random numbers of one seed's steps apart from those of the next seed's."""


class TuneOptions(Record):
    """How long, how fast and towards what a network is fine-tuned."""

    epochs: int = Field(default=5, ge=0)
    """Passes over the fit split."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """adamw, or sgd with momentum, which decays every parameter as published recipes do."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak rate, between a linear warm-up and a cosine; convolutional networks take twenty times as much."""
    relative: bool = False
    """Whether the rate is a share of each tensor's size (its root mean square at the beginning), for adamw: layers that were
    solved anew, merged with norms or trained long ago differ in scale; a hundredth suits convolutional networks."""
    milestones: tuple[int, ...] = ()
    """An epoch after which the rate is divided by ten, instead of the cosine; may be repeated."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps that the warm-up takes."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay of matrices and kernels; under adamw biases, scales and diagonal maps have none."""
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=True)
    """Largest norm of the gradient; inf for no bound."""
    teacher_weight: float = Field(default=1.0, ge=0)
    """Weight of the divergence from the teacher's answers; 0 trains without a teacher."""
    temperature: float = Field(default=1.0, gt=0)
    """Softens both distributions before they are compared."""
    label_weight: float = Field(default=0.3, ge=0)
    """Weight of the cross-entropy with the labels, or with the next tokens; few samples are soon learnt by heart."""
    hidden_weight: float = Field(default=0.0, ge=0)
    """Weight of the distance from the teacher's hidden states behind each block."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label that is spread over all classes."""
    flip: bool = False
    """Whether pictures are mirrored at random; the teacher sees them as the network does."""
    shift: int = Field(default=0, ge=0)
    """Pixels by which pictures are moved at random, up and down, left and right."""
    retreat: bool = False
    """Whether training begins again, at a third of the rate, after each epoch until one is better on validation data than
    what it began with; for rates that nobody tried on this network."""
    update_norms: bool = False
    """Whether batch norms go on collecting statistics; small batches spoil them, so normally they do not."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens of the fit split's texts to learn from at most; all by default."""
    step_tokens: int | None = Field(default=None, gt=0)
    """Tokens of a step; by default those of a batch."""
    save_memory: bool = False
    """Whether what lies inside blocks is computed again on the way back instead of kept, for networks that can."""
    checkpoint_steps: int = Field(default=100, gt=0)
    """Steps between checkpoints; there is one after each epoch too."""

    @field_validator("relative")
    @classmethod
    def _adamw_alone(cls, relative: bool, info: ValidationInfo) -> bool:
        if relative and info.data.get("optimizer") != "adamw":
            raise ValueError("relative rates go with adamw, whose steps do not depend on the loss's scale")
        return relative


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
    _check(model, task, teacher, options, counterparts)
    asked = _asked(model, task, teacher, options, counterparts, only, seed)
    num_steps, stopped = options.epochs * len(fit), ""
    with ExitStack() as stack:
        there = first_tensor(stack.enter_context(ready(model, torch.empty(0), device))).device
        reference = None
        if teacher is not None:
            stack.enter_context(ready(teacher, torch.empty(0), there))
            reference = predictions(teacher, task.batches("validation"), device=there)
        place = Place(asked=asked, before=evaluate(model, task, reference=reference, device=there))
        trained = stack.enter_context(trained_parameters(model, only, update_norms=options.update_norms))
        if options.save_memory:
            stack.enter_context(recomputing(model))
        apart = None
        if options.hidden_weight and teacher is not None and counterparts is not None:  # as `_check` asks
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


def _check(
    model: nn.Module, task: Task, teacher: nn.Module | None, options: TuneOptions, counterparts: Mapping[str, str] | None
) -> None:
    """Raises DataError when nothing teaches, ModelError when the network would teach itself."""
    if teacher is model:
        raise ModelError("A network cannot be its own teacher. Pass a copy made before it was cut.")
    if options.hidden_weight and not (teacher and counterparts):
        raise DataError(
            f"hidden_weight={options.hidden_weight:g} compares hidden states with a teacher's, but there is no "
            f"{'pair of them' if teacher else 'teacher'}. Pass teacher=ORIGINAL and counterparts=counterparts(chain, plan)."
        )
    labelled = task.kind in ("causal-lm", "seq2seq") or (task.has_labels and task.kind != "embedding")
    taught = teacher is not None and (options.teacher_weight or options.hidden_weight)
    if not (taught or (labelled and options.label_weight)):
        raise DataError(
            f"Fine-tuning has nothing to learn from: {'no' if teacher is None else 'a'} teacher of weight "
            f"{options.teacher_weight:g}, {'labels' if labelled else 'no labels'} of weight "
            f"{options.label_weight:g}. Pass teacher=ORIGINAL, or labels, with a weight above 0."
        )


def _asked(
    model: nn.Module,
    task: Task,
    teacher: nn.Module | None,
    options: TuneOptions,
    counterparts: Mapping[str, str] | None,
    only: Collection[str] | None,
    seed: int,
) -> dict[str, str]:
    """All that decides the result, as short texts."""

    def short(texts: Iterable[str]) -> str:
        return sha256(" ".join(sorted(texts)).encode()).hexdigest()[:16]

    settings = options.model_dump(exclude={"checkpoint_steps"})
    return {name: str(value) for name, value in settings.items()} | {
        "network": model_hash(model),
        "teacher": "" if teacher is None else model_hash(teacher),
        "data": task.hash,
        "parameters": "all" if only is None else short(only),
        "seed": str(seed),
        "counterparts": short(f"{mine} {theirs}" for mine, theirs in (counterparts or {}).items()),
    }


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
