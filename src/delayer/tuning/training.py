"""A training run that can stop anywhere and go on: parameters, optimiser, the best weights so far, the place."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from delayer.errors import StudyError
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
