"""How data is read and split: the options of every task."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["image-classification", "text-classification", "embedding", "causal-lm", "seq2seq", "regression"]


class TaskOptions(BaseModel):
    """How many samples go where, and how they become what a network reads. None means: as the network states it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    num_fit: int = Field(default=500, gt=0)
    """Samples to fit on at most; a data set too small for all three numbers is shared out 50 / 25 / 25 %."""
    num_validation: int = Field(default=250, gt=0)
    """Samples to choose on at most."""
    num_test: int = Field(default=1000, gt=0)
    """Samples to report on at most; nothing is ever chosen on them."""
    fit_tokens: int | None = Field(default=None, gt=0)
    """Tokens of text to fit on at most; by default 65,536 for a network that writes text, else as many as the samples have."""
    validation_tokens: int | None = Field(default=None, gt=0)
    """Tokens of text to choose on at most; by default 16,384 for a network that writes text."""
    test_tokens: int | None = Field(default=None, gt=0)
    """Tokens of text to report on at most; by default 65,536 for a network that writes text."""
    batch_size: int | None = Field(default=None, gt=0)
    """Samples a batch; by default 32, and of long texts fewer: as many as hold 4,096 tokens."""
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    """Decides which samples go where, and in which order."""
    kind: Kind | None = None
    """What the network does: image-classification, text-classification, embedding, causal-lm, seq2seq or regression; by default
    found from its answer to one sample, from what it says of itself and from the labels."""
    labels: bool = True
    """Whether labels are used; without them networks are graded by agreement with the original."""
    classes: Path | None = None
    """File of class names, one a line, line 1 for the head's first output; maps the data's classes to the
    head's."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel, on the scale 0..1."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each channel, on the scale 0..1."""
    size: int | tuple[int, int] | None = None
    """Height and width that images are resized to, pixels; one number for both."""
    channels: int | None = Field(default=None, gt=0)
    """Channels of an image: 1 for grey, 3 for RGB."""
    max_length: int | None = Field(default=None, gt=1)
    """Tokens a text is cut to; by default what the network takes, at most 512."""
    tokenizer: str | None = None
    """Name or folder of the tokenizer; by default the network's own."""
    text_column: str | None = None
    """Column that holds the text; by default recognised by its name."""
    pair_column: str | None = None
    """Column that holds the second text of a pair, or what an encoder-decoder is to write; by default recognised by its name."""
    image_column: str | None = None
    """Column that holds the image; by default recognised by its name or kind."""
    label_column: str | None = None
    """Column that holds the label; by default recognised by its name."""


class TrainingTaskOptions(TaskOptions):
    """The same for work that trains, which wants more samples and larger batches."""

    num_fit: int = Field(default=20_000, gt=0)
    """Samples to train on at most; a data set too small for all three numbers is shared out 50 / 25 / 25 %."""
    num_validation: int = Field(default=2_000, gt=0)
    """Samples to choose on at most."""
    fit_tokens: int | None = Field(default=4_194_304, gt=0)
    """Tokens of text to train on at most."""
    validation_tokens: int | None = Field(default=262_144, gt=0)
    """Tokens of text to choose on at most."""
    batch_size: int | None = Field(default=128, gt=0)
    """Samples a batch."""
