"""From the numbers of samples to what a network is called with."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from delayer.errors import DataError, DelayerError
from delayer.network.calling import Inputs
from delayer.tasks.images import image_notes, image_shape, image_tensor
from delayer.tasks.options import TaskOptions
from delayer.tasks.preprocessing import image_plan
from delayer.tasks.sources import Samples
from delayer.tasks.tokenising import TextReader

NUM_NAMED = 5
"""Bad files that an error names."""

Read = Callable[[Sequence[int]], Inputs]


def reader_of(samples: Samples, rows: Sequence[int], model: nn.Module, options: TaskOptions) -> tuple[Read, list[str]]:
    """A function from sample numbers to inputs, as the network wants them, and what the user should know.

    rows: the samples that will ever be read; of images their headers are checked now, the rest when they are
    touched. Raises DataError naming images that cannot be read.
    """
    if samples.content == "images":
        return _image_reader(samples, rows, model, options)
    if samples.content == "arrays":
        return _array_reader(samples, options)
    reader = TextReader(model, options)
    starts = f", after {reader.tokenizer.bos_token}" if reader.first else ""
    notes = [f"Texts are read as at most {reader.max_length} tokens{starts}.", *reader.notes]
    return (lambda rows: reader([samples.get(row) for row in rows])), notes


def _image_reader(samples: Samples, rows: Sequence[int], model: nn.Module, options: TaskOptions):
    plan = image_plan(model, options, samples.preprocessing)
    plan, notes = image_notes(_each(samples, rows, image_shape), plan)
    # Networks of transformers take images by this name, not all of them as the first argument.
    by_name = getattr(model, "main_input_name", None) == "pixel_values"

    def read(rows: Sequence[int]) -> Inputs:
        images = torch.stack(_each(samples, rows, lambda image: image_tensor(image, plan)))
        return {"pixel_values": images} if by_name else images

    return read, notes


def _each(samples: Samples, rows: Sequence[int], do: Callable[[Any], Any]) -> list[Any]:
    from PIL import Image

    results, bad, huge = [], [], []
    for row in rows:
        try:
            image = samples.get(row)
            with image if hasattr(image, "close") else nullcontext():  # files stay open no longer than needed
                results.append(do(image))
        except (DelayerError, ImportError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            huge.append(samples.name_of(row))
        except Exception:  # image decoders raise whatever their formats lead to
            bad.append(samples.name_of(row))
    if huge:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{len(huge)} of {len(rows)} images have more than the {most:,} pixels that Pillow opens, a guard against files that "
            f"unpack without end: {_some(huge)}. Make them smaller or remove them; if you trust them, raise "
            "PIL.Image.MAX_IMAGE_PIXELS."
        )
    if bad:
        raise DataError(f"{len(bad)} of {len(rows)} images cannot be read: {_some(bad)}. Repair or remove them.")
    return results


def _some(names: list[str]) -> str:
    return ", ".join(names[:NUM_NAMED]) + (f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else "")


def _array_reader(samples: Samples, options: TaskOptions):
    if options.size is not None or options.channels is not None:
        raise DataError(
            "--size and --channels are for images; these arrays go to the network as they are. "
            "Leave the options out, or store images as uint8."
        )
    mean, std = (None if x is None else torch.tensor(x) for x in (options.mean, options.std))

    def read(rows: Sequence[int]) -> Tensor:
        x = torch.stack([torch.as_tensor(samples.get(row)) for row in rows])
        shape = (-1,) + (1,) * (x.ndim - 2)  # one number a channel, the first axis of a sample
        x = x if mean is None else x - mean.view(shape)
        return x if std is None else x / std.view(shape)

    return read, []
