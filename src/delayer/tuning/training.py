"""A training run that can stop anywhere and go on: parameters, optimiser, the best weights so far, the place."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.errors import ModelError, StudyError
from delayer.study import Count, Grade, Index, Record
from delayer.tuning.checkpoint import put_back_, read_checkpoint, save_checkpoint

Moments = dict[str, dict[str, Tensor]]
"""What an optimiser remembers: by a parameter's name, tensors by their kind."""


class TuneEpoch(Record):
    """One pass over the fit split."""

    epoch: Index
    """From 1."""
    loss: float
    """Mean over the epoch's steps."""
    grade: Grade
    """On the validation split, after the epoch."""


def check_epochs(epochs: Sequence[TuneEpoch], best: int) -> None:
    """Raises ValueError unless epochs are numbered from 1 and the best is among them, or 0."""
    if [one.epoch for one in epochs] != list(range(1, len(epochs) + 1)):
        raise ValueError("epochs are not numbered from 1 in their order")
    if best > len(epochs):
        raise ValueError(f"epoch {best} is said to be the best of {len(epochs)}")


class Place(BaseModel):
    """Where a run stands, apart from its tensors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    asked: dict[str, str]
    """What decides the result: options, seed and fingerprints; a checkpoint of anything else is refused."""
    before: Grade
    step: Count = 0
    loss_sum: float = 0.0
    """Of the epoch that is under way."""
    epochs: list[TuneEpoch] = []
    best_epoch: Index = 0
    retreats: Index = 0
    """How often it began again; an epoch went before each."""

    @model_validator(mode="after")
    def _agrees(self) -> "Place":
        check_epochs(self.epochs, self.best_epoch)
        return self

    @property
    def best(self) -> Grade:
        """The grade of the best epoch; the one before training where none was better."""
        return self.epochs[self.best_epoch - 1].grade if self.best_epoch else self.before


class Training:
    """An optimiser on some parameters of a network.

    trained: those parameters by name. place: where the run stands. optimizer: of `optimizer_for`.
    warm: what an earlier run's `moments` gave; parameters that it does not know, or in another shape, begin cold.
    """

    def __init__(
        self,
        model: nn.Module,
        trained: dict[str, nn.Parameter],
        place: Place,
        optimizer: torch.optim.Optimizer,
        warm: Moments | None = None,
    ):
        self.trained, self.place, self._optimizer, self._warm = trained, place, optimizer, warm or {}
        self._live = trained | dict(model.named_buffers())
        self._best = self._copies()
        self._warm_(self._warm)

    def step_(self, loss: Tensor, *, rate: float, clip: float) -> bool:
        """Go one step down the loss; False, and no step, where the loss or its gradient is not finite."""
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained.values(), clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            return False
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("size", 1.0)
        self._optimizer.step()
        self.place.step += 1
        self.place.loss_sum += loss.item()
        return True

    def end_epoch(self, grade: Grade, num_steps: int) -> None:
        """Note an epoch's grade, and its weights if it is the best so far: by grade, then by divergence."""
        place, better = self.place, _merit(grade) > _merit(self.place.best)
        epoch = TuneEpoch(epoch=len(place.epochs) + 1, loss=place.loss_sum / num_steps, grade=grade)
        place.epochs.append(epoch)
        place.loss_sum = 0.0
        if better:
            place.best_epoch, self._best = epoch.epoch, self._copies()

    def retreat_(self) -> None:
        """Begin again from the best weights, as the optimiser was then."""
        self._fill_(self._best)
        self._optimizer.state.clear()
        self._warm_(self._warm)
        self.place.retreats += 1

    def finish_(self) -> None:
        """Put the best weights, and the buffers that went with them, into the network."""
        self._fill_(self._best)

    def save(self, path: Path) -> None:
        """Write all that going on takes."""
        tensors = {f"now {name}": tensor for name, tensor in self._live.items()}
        tensors |= {f"best {name}": tensor for name, tensor in self._best.items()}
        tensors |= {f"{kind} {name}": t for name, moments in self.moments().items() for kind, t in moments.items()}
        save_checkpoint(path, tensors, self.place)

    def moments(self) -> Moments:
        """What the optimiser remembers of each parameter, by the parameter's name."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.trained.items()}
        return {
            names[parameter]: {kind: t for kind, t in state.items() if t is not None}
            for parameter, state in self._optimizer.state.items()
        }

    def _warm_(self, moments: Moments) -> None:
        for name, state in moments.items():
            parameter = self.trained.get(name)
            if parameter is not None and all(t.ndim == 0 or t.shape == parameter.shape for t in state.values()):
                for kind, t in state.items():
                    there = "cpu" if kind == "step" else parameter.device  # where AdamW keeps them
                    self._optimizer.state[parameter][kind] = t.detach().clone().to(there)

    def resume_(self, path: Path) -> None:
        """Go on where `save` was called, if it was. Raises StudyError for a checkpoint of another run."""
        if (found := read_checkpoint(path, Place)) is None:
            return
        tensors, place = found
        if other := sorted(key for key, value in self.place.asked.items() if place.asked.get(key) != value):
            raise StudyError(
                f"The checkpoint {path} is of another run: its {', '.join(other)} differ. "
                "Delete it to begin again, or choose another file."
            )
        by_key: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(" ")
            by_key.setdefault(kind, {})[name] = tensor
        best, now = by_key.pop("best", {}), by_key.pop("now", {})
        put_back_(self._best, best, path)
        put_back_(self._live, now, path)
        self.place = place
        self._warm_({name: {kind: tensors[name] for kind, tensors in by_key.items() if name in tensors} for name in self.trained})

    def _copies(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._live.items()}

    def _fill_(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._live.items():
                tensor.copy_(tensors[name])


def _merit(grade: Grade) -> tuple[float, float]:
    return grade.value if grade.higher_is_better else -grade.value, -(grade.distance or 0.0)


def optimizer_for(
    trained: dict[str, nn.Parameter], kind: str, *, weight_decay: float, momentum: float, relative: bool = False
) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum; `Training` sets the rate of each step.

    relative: AdamW's rate of each tensor is a share of the tensor's root mean square as it is now, at least of 0.001.
    Source: Shazeer and Stern 2018 (Adafactor), arXiv 1804.04235, section 8. Fidelity: theirs follows the tensor as it changes.
    """
    if kind == "sgd":
        return torch.optim.SGD(trained.values(), momentum=momentum, weight_decay=weight_decay)
    # Scales and biases are not decayed, nor are diagonal maps, whose rest is one and not zero.
    if relative:
        return torch.optim.AdamW(
            [
                {
                    "params": [p],
                    "weight_decay": weight_decay * (p.ndim > 1),
                    "size": max(p.detach().square().mean().sqrt().item(), 1e-3),
                }
                for p in trained.values()
            ]
        )
    kinds = [p for p in trained.values() if p.ndim > 1], [p for p in trained.values() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for params, decay in zip(kinds, (weight_decay, 0.0), strict=True) if params]
    )


def rate_at(step: int, num_steps: int, *, peak: float, warmup: float, milestones: Sequence[int] = ()) -> float:
    """Learning rate of a step: linear to the peak over a share of all, then half a cosine towards zero.

    milestones: steps at which the rate is divided by ten, in place of the cosine.
    """
    rising = math.ceil(warmup * num_steps)
    if step < rising:
        return peak * (step + 1) / rising
    if milestones:
        return peak / 10 ** sum(step >= milestone for milestone in milestones)
    return peak * (1 + math.cos(math.pi * (step - rising) / max(num_steps - rising, 1))) / 2


@contextmanager
def trained_parameters(
    model: nn.Module, only: Collection[str] | None, *, update_norms: bool
) -> Iterator[dict[str, nn.Parameter]]:
    """Inside: training mode, gradients for the named parameters (all for None) and for no others.

    Batch norms keep their statistics, unless `update_norms` is asked for and their own scales are trained.
    Afterwards `requires_grad` and modes are what they were, and no gradient is left.
    Raises ModelError for a name that the network does not have.
    """
    named = dict(model.named_parameters())
    unknown = sorted(set(only or ()) - named.keys())
    if unknown or not named or (only is not None and not only):
        raise ModelError(
            f"The parameters to train should be some of the network's {len(named)}; "
            f"found {f'{unknown[0]!r}, which it lacks' if unknown else 'none'}. "
            "Name them as model.named_parameters() does, or train all."
        )
    flags = {parameter: parameter.requires_grad for parameter in named.values()}
    modes = {module: module.training for module in model.modules()}
    try:
        for name, parameter in named.items():
            parameter.requires_grad_(only is None or name in only)
        model.train()
        for module in model.modules():
            learns = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
            if isinstance(module, _BatchNorm) and not (update_norms and learns):
                module.eval()
        yield {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
            parameter.grad = None
        for module, training in modes.items():
            module.training = training
