"""delayer makes trained networks shallower.

Observe once, judge many times, cut from what was seen; then prove what was lost, measure what was won, and hand over a
smaller network that loads like any other.
"""

# Networks and data, in and out.
from delayer.store import load, save
from delayer.families import chain_of
from delayer.tasks import open_task, task_of

# What is seen, and what it says.
from delayer.observing.one_pass import observe
from delayer.search.scoring import score
from delayer.search.scoring_sites import sites
from delayer.search.scan import scan

# What is cut.
from delayer.search.choose import plan
from delayer.cutting import apply, apply_, plan_by_hand, read_plan
from delayer.tuning import tune, tune_
from delayer.shrinking import merge, shrink

# What is left: proof, grades, time.
from delayer.store.proof import check, reload_proof
from delayer.tasks import evaluate, predictions
from delayer.measure import compare_latency, num_macs, num_params
from delayer.measure.onnx import export_onnx

# All of it, over a study folder.
from delayer.stages import run

# Nouns.
from delayer.cutting import Plan
from delayer.errors import DelayerError
from delayer.network.chain import Chain, Span
from delayer.observing.rows import Rows
from delayer.search.budget import Budget
from delayer.tasks import Task

# What may be asked for.
from delayer.search.options import PlanOptions, ScanOptions
from delayer.shrinking import ShrinkOptions
from delayer.stages import CheckOptions, LoadOptions
from delayer.tasks import TaskOptions
from delayer.tuning import TuneOptions

# Kinds of things, each a folder of files that register themselves.
from delayer import edits, metrics
from delayer.fitting import operators
from delayer.observing import stats
from delayer.search import methods

from delayer.study.version import __version__

__all__ = [
    # networks and data
    "load",
    "save",
    "chain_of",
    "open_task",
    "task_of",
    # what is seen
    "observe",
    "score",
    "sites",
    "scan",
    # what is cut
    "plan",
    "plan_by_hand",
    "read_plan",
    "apply",
    "apply_",
    "tune",
    "tune_",
    "shrink",
    "merge",
    # what is left
    "check",
    "reload_proof",
    "evaluate",
    "predictions",
    "compare_latency",
    "num_macs",
    "num_params",
    "export_onnx",
    # all of it
    "run",
    # nouns
    "Budget",
    "Chain",
    "DelayerError",
    "Plan",
    "Rows",
    "Span",
    "Task",
    "__version__",
    # options
    "CheckOptions",
    "LoadOptions",
    "PlanOptions",
    "ScanOptions",
    "ShrinkOptions",
    "TaskOptions",
    "TuneOptions",
    # kinds
    "edits",
    "operators",
    "metrics",
    "stats",
    "methods",
]


def __dir__() -> list[str]:
    return sorted(__all__)
