"""The Pareto front: candidates that no other equals in everything and beats in something."""

import csv
import io
from collections.abc import Sequence

from delayer.study import NasTrial

COSTS = ("msrs", "params", "latency_ms")
"""What should be low; accuracy should be high."""
COLUMNS = (
    "slot",
    "candidate",
    "state",
    "accuracy",
    "msrs",
    "msrs_share",
    "params",
    "macs",
    "latency_ms",
    "seconds",
    "attempts",
    "error",
)


def pareto_front(trials: Sequence[NasTrial]) -> list[NasTrial]:
    """Trained candidates that nothing dominates in accuracy, redundancy, parameters and latency, best accuracy first.

    A figure that was not measured for all is left out of the comparison.
    """
    trained = [(trial, trial.accuracy) for trial in trials if trial.state == "trained" and trial.accuracy is not None]
    costs = [name for name in COSTS if all(getattr(trial, name) is not None for trial, _ in trained)]
    points = [(-accuracy, *(getattr(trial, name) for name in costs)) for trial, accuracy in trained]

    def beaten(a: tuple) -> bool:
        return any(b != a and all(y <= x for x, y in zip(a, b, strict=True)) for b in points)

    front = [one for one, point in zip(trained, points, strict=True) if not beaten(point)]
    return [trial for trial, _ in sorted(front, key=lambda one: (-one[1], one[0].slot))]


def as_csv(trials: Sequence[NasTrial]) -> str:
    """A line a trial, under a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(trial, name) for name in COLUMNS] for trial in trials)
    return text.getvalue()
