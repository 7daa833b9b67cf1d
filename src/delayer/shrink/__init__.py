"""Making activations linear, one round after another: choose, edit, fine-tune, validate, keep or roll back."""

from delayer.shrink.loop import shrink_until
from delayer.shrink.options import ShrinkOptions
from delayer.shrink.racing import merge_faster_, num_kernels
from delayer.shrink.schedules import Schedule, schedules

__all__ = ["Schedule", "ShrinkOptions", "merge_faster_", "num_kernels", "schedules", "shrink_until"]
