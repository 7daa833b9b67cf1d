"""`digits`: scikit-learn's bundled handwritten digits, from image 1,000 on."""

import torch
from torch import nn

from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, fingerprint, no_part, sources

FIRST = 1000
"""The demonstration network was trained on the images before this one."""


@sources.register("digits")
def digits(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """797 greyscale images [8, 8] of ten digits, grey levels 0..16 brought to 0..1, meant for mean and std ½.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; scikit-learn's copy.
    """
    from sklearn.datasets import load_digits

    no_part(part, "digits")
    images, labels = load_digits(return_X_y=True)
    images = (images[FIRST:] / 16).astype("float32").reshape(-1, 8, 8)
    labels = torch.as_tensor(labels[FIRST:], dtype=torch.long)
    return Samples(
        "images",
        len(images),
        images.__getitem__,
        fingerprint(images.tobytes(), bytes(labels.tolist())),
        labels,
        preprocessing={"mean": (0.5,), "std": (0.5,)},
    )
