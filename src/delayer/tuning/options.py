"""What may be asked of a fine-tune."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from delayer.study import Record


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
    lora: int = Field(default=0, ge=0)
    """Rank of adapters that are trained in place of all weights, and merged into them at the end (extra `lora`); 0 for none."""
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
