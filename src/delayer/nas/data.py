"""Labelled images for a search: opened once, held as tensors, in the three disjoint splits of a task."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import DataError, DelayerError, NasError
from delayer.libraries import first_line
from delayer.nas.space import Space
from delayer.network.calling import first_tensor
from delayer.network.notes import note_
from delayer.tasks import Task, TaskOptions, open_task
from delayer.tasks.images import image_shape
from delayer.tasks.sources import sources, spec_parts


@dataclass(frozen=True, eq=False)
class NasData:
    """What candidates are trained and judged on, and the shape of network that it asks for.

    preprocessing: what a network states about its images.
    """

    task: Task
    in_channels: int
    num_classes: int
    preprocessing: dict[str, Any]

    def build(self, space: Space, candidate: str) -> nn.Module:
        """A candidate's network for this data, untrained."""
        model = space.build(candidate, in_channels=self.in_channels, num_classes=self.num_classes)
        note_(model, preprocessing=self.preprocessing)
        return model

    def fit(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """A seeded share of the training images [n, channels, height, width] and their labels [n]."""
        batches = list(self.task.batches("fit"))
        x = torch.cat([first_tensor(b.inputs) for b in batches])
        y = torch.cat([b.labels for b in batches if b.labels is not None])  # `open_data` takes labelled images alone
        if share == 1:
            return x, y
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: max(2, round(share * len(x)))]
        return x[chosen], y[chosen]


def open_data(spec: str, space: Space, options: TaskOptions, *, test: str | None = None) -> NasData:
    """The data that `KIND:PATH` names. Raises DataError when it holds no labelled images."""
    kind, path, part = spec_parts(spec)
    samples = sources[kind](path, part, options, nn.Identity())
    if samples.content not in ("images", "arrays") or samples.labels is None:
        raise DataError(
            f"An architecture search needs labelled images; {spec} holds {samples.content} "
            f"{'without' if samples.labels is None else 'with'} labels. Give others."
        )
    first = samples.get(0)
    channels = options.channels or (image_shape(first)[0] if samples.content == "images" else len(first))
    num_classes = len(samples.class_names or ()) or int(samples.labels.max()) + 1
    stated = samples.preprocessing or {"mean": (0.5,), "std": (0.5,)}
    asked = {name: value for name in ("mean", "std", "size") if (value := getattr(options, name)) is not None}
    preprocessing = {**stated, **asked, "channels": channels}
    first_of_all = next(space.every())
    try:
        model = space.build(first_of_all, in_channels=channels, num_classes=num_classes)
    except DelayerError:
        raise
    except Exception as error:  # whatever a block of the user's raises becomes one sentence
        raise NasError(
            f"The first candidate of the space, {first_of_all}, cannot be built: {type(error).__name__}: "
            f"{first_line(error)}. A block of yours is called as factory(in_width, width, stride)."
        ) from error
    note_(model, preprocessing=preprocessing)
    return NasData(open_task(spec, model, options, test_spec=test), channels, num_classes, preprocessing)
