"""Making activations linear, one round after another: choose, edit, fine-tune, validate, keep or roll back."""

from delayer.shrinking.loop import shrink
from delayer.shrinking.options import ShrinkOptions
from delayer.shrinking.racing import merge, merge_faster_, num_kernels
from delayer.shrinking.schedules import Schedule, schedules

__all__ = ["Schedule", "ShrinkOptions", "merge", "merge_faster_", "num_kernels", "schedules", "shrink"]
