"""Images as tensors, by a plan that `preprocessing` found."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from delayer.errors import DataError
from delayer.tasks.preprocessing import ImagePlan

ASSUMED_SIZE = 224


def image_notes(images: Sequence[tuple[int, int, int]], plan: ImagePlan) -> tuple[ImagePlan, list[str]]:
    """The plan, with a size if images of different sizes need one, and what the user should know.

    images: (channels, height, width) of each.
    """
    notes = [f"Images are normalised by mean {_short(plan.mean)} and std {_short(plan.std)}: {plan.said_by}."]
    sizes = Counter(shape[1:] for shape in images)
    if plan.size is None and len(sizes) > 1:
        plan = replace(plan, size=(ASSUMED_SIZE, ASSUMED_SIZE))
        notes.append(f"Images differ in size and nothing states the network's: {ASSUMED_SIZE} is assumed.")
    for channels, (what, become) in {1: ("greyscale", "RGB"), 3: ("colour", "greyscale")}.items():
        num = sum(shape[0] == channels for shape in images)
        if num and channels != plan.channels:
            notes.append(f"{_of(num, images)} {what}: converted to {become}.")
    odd = sum(num for size, num in sizes.items() if plan.size and size != plan.size)
    if plan.size is not None and odd:
        (h, w), _ = Counter({size: num for size, num in sizes.items() if size != plan.size}).most_common(1)[0]
        notes.append(
            f"{_of(odd, images)} not {plan.size[0]} × {plan.size[1]} but of other sizes, such as {h} × {w}: "
            f"resized ({plan.interpolation})."
        )
    return plan, notes


def _of(num: int, images: Sequence) -> str:
    return f"{num} of {len(images)} images {'is' if num == 1 else 'are'}"


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def image_shape(image: Any) -> tuple[int, int, int]:
    """(channels, height, width) of an array or, by its header alone, of a PIL image; 3 for any colour."""
    if hasattr(image, "shape"):
        return (1 if image.ndim == 2 else 3), *image.shape[:2]
    grey = image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I")
    return (1 if grey else 3), image.height, image.width


def image_tensor(image: Any, plan: ImagePlan) -> Tensor:
    """[channels, height, width] float32 of a PIL image, or of an array of uint8 or of floats in 0..1.

    Fidelity: as timm and torchvision do it; where the border to cut is odd, transformers cuts one pixel elsewhere.
    An image that has the network's size already stays whole, and so does one smaller than that.
    Raises DataError for a network that wants neither one channel nor three.
    """
    import numpy as np
    from PIL import Image

    if plan.channels not in (1, 3):
        raise DataError(f"Images have 1 or 3 channels, but the network reads {plan.channels}. Give arrays by npz:PATH.")
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if image.mode.startswith("I"):  # 16 bits of grey
        image = Image.fromarray(np.asarray(image, np.float32) / 65535)
    if image.mode != "F":
        image = image.convert("RGB" if plan.channels == 3 else "L")
    image = _fitted(image, plan)
    # Everything here is numpy: torch would start a pool of its own in each reading thread.
    pixels = np.asarray(image, np.float32) / (1 if image.mode == "F" else 255)
    pixels = np.broadcast_to(pixels.reshape(*pixels.shape[:2], -1), (*pixels.shape[:2], plan.channels))
    pixels = (pixels - np.asarray(plan.mean, np.float32)) / np.asarray(plan.std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _fitted(image: Any, plan: ImagePlan) -> Any:
    from PIL import Image

    if plan.size is None or (image.height, image.width) == plan.size:
        return image
    how = getattr(Image.Resampling, plan.interpolation.upper(), Image.Resampling.BICUBIC)
    height, width = plan.size
    # Cutting off a border pays for photographs; thumbnails are used whole.
    share = plan.crop_share if image.height > height and image.width > width else 1.0
    high, wide = (math.floor(side / share + 1e-6) for side in plan.size)
    if not plan.squash and high * image.width >= wide * image.height:
        wide = image.width * high // image.height
    elif not plan.squash:
        high = image.height * wide // image.width
    image = image.resize((wide, high), how)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.crop((left, top, left + width, top + height)) if (high, wide) != plan.size else image
