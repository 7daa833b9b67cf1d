"""How a round is fine-tuned."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from delayer.shrink.options import ShrinkOptions
from delayer.tune import TuneOptions

RATES = {"sgd": 0.01, "adamw": 1e-4}


def recipe(model: nn.Module, options: ShrinkOptions, epochs: int, *, teacher: bool) -> TuneOptions:
    """Options of a round: SGD with momentum for networks with batch norms, whose statistics go on, else AdamW.

    teacher: whether the original's answers are learnt besides the labels, as our schedule does; published ones learn
    from labels alone.
    """
    norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    optimizer = options.optimizer or ("sgd" if norms else "adamw")
    return TuneOptions(
        epochs=epochs, optimizer=optimizer, learning_rate=options.learning_rate or RATES[optimizer], warmup=0.05,
        weight_decay=options.weight_decay, clip=5.0, teacher_weight=float(teacher), label_weight=0.3 if teacher else 1.0,
        update_norms=norms,
    )
