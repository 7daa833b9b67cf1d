"""delayer makes trained networks shallower.

Observe once, judge many times, cut from what was seen; then prove what was lost, measure what was won, and hand over a
smaller network that loads like any other.
"""

from delayer.cutting import Plan, apply, apply_, plan_by_hand, read_plan
from delayer.errors import DelayerError
from delayer.families import chain_of
from delayer.measure import compare_latency, num_macs, num_params
from delayer.network.chain import Chain, Span
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows
from delayer.observing.stats import Geometry, Hsic, Moments
from delayer.search.budget import Budget
from delayer.search.exact_search import best_spans
from delayer.search.scan import scan
from delayer.search.scoring import score
from delayer.stages import CheckOptions, LoadOptions, PlanOptions, ScanOptions, run
from delayer.store import load, save
from delayer.store.proof import reload_proof
from delayer.study.version import __version__
from delayer.tasks import Task, TaskOptions, evaluate, open_task, predictions, task_of

__all__ = [
    "Budget",
    "Chain",
    "CheckOptions",
    "DelayerError",
    "Geometry",
    "Hsic",
    "LoadOptions",
    "Moments",
    "Plan",
    "PlanOptions",
    "Rows",
    "ScanOptions",
    "Span",
    "Task",
    "TaskOptions",
    "__version__",
    "apply",
    "apply_",
    "best_spans",
    "chain_of",
    "compare_latency",
    "evaluate",
    "load",
    "num_macs",
    "num_params",
    "observe",
    "open_task",
    "plan_by_hand",
    "predictions",
    "read_plan",
    "reload_proof",
    "run",
    "save",
    "scan",
    "score",
    "task_of",
]
