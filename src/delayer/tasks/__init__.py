"""Tasks: data in three disjoint splits, what a network reads of them, and a grade.

A data source is one file under `sources/`; what a network states about its inputs is found in `preprocessing`.
"""

from delayer.tasks.answering import predictions
from delayer.tasks.grading import grade_of
from delayer.tasks.options import Kind, TaskOptions
from delayer.tasks.outputs import Outputs
from delayer.tasks.splits import Batch, Split
from delayer.tasks.task import Task, evaluate, open_task, task_of

__all__ = [
    "Batch",
    "Kind",
    "Outputs",
    "Split",
    "Task",
    "TaskOptions",
    "evaluate",
    "grade_of",
    "open_task",
    "predictions",
    "task_of",
]
