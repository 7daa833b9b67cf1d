"""Making activations linear, one round after another: choose, edit, fine-tune, validate, keep or roll back."""

from delayer.shrink.loop import shrink_until
from delayer.shrink.options import Round, ShrinkOptions, Shrunk
from delayer.shrink.schedules import Schedule, schedules

__all__ = ["Round", "Schedule", "ShrinkOptions", "Shrunk", "schedules", "shrink_until"]
