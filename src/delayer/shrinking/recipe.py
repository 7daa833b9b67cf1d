"""How a round is fine-tuned."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.shrinking.options import ShrinkOptions
from delayer.tuning import TuneOptions

RATES = {"sgd": 0.01, "adamw": 1e-4}
TAUGHT_RATE, TEMPERATURE, LABELS = 3e-4, 3.0, 0.1
"""With a teacher: the rate for networks with batch norms, whose new layers have none; and what is learnt."""


def recipe(model: nn.Module, options: ShrinkOptions, epochs: int, *, teacher: bool) -> TuneOptions:
    """Options of a round's training.

    Published schedules learn from labels alone: SGD with momentum for networks with batch norms, whose statistics go on,
    else AdamW.
    teacher: whether the original's answers are learnt, as in our schedule: AdamW, and batch norms stay as they are, so that
    a short training cannot upset what was fitted. A rate that only does harm is left, see `TuneOptions.retreat`.
    """
    norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    optimizer = options.optimizer or ("sgd" if norms and not teacher else "adamw")
    rate = TAUGHT_RATE if norms and teacher and optimizer == "adamw" else RATES[optimizer]
    return TuneOptions(
        epochs=epochs,
        optimizer=optimizer,
        learning_rate=options.learning_rate or rate,
        warmup=0.05,
        weight_decay=options.weight_decay,
        clip=5.0,
        teacher_weight=float(teacher),
        temperature=TEMPERATURE,
        label_weight=LABELS if teacher else 1.0,
        update_norms=norms and not teacher,
        retreat=teacher,
    )
