"""The stages of a study, from a network's name to a smaller network: each reads and writes the study folder.

A stage that stands finished in the folder for the same network, data and options is not done again, so that a killed
run goes on where it stood.
"""

from delayer.search.options import PlanOptions, ScanOptions
from delayer.stages.check import check_stage, export_stage
from delayer.stages.compare import CompareOptions, compare_stage
from delayer.stages.cut import cut_stage
from delayer.stages.options import CheckOptions, LoadOptions, SaveOptions
from delayer.stages.plan import plan_stage
from delayer.stages.run import report_stage, run, run_all
from delayer.stages.scan import scan_stage
from delayer.stages.score import score_stage
from delayer.stages.shrink import shrink_stage
from delayer.stages.sites import SitesOptions, sites_stage
from delayer.stages.standing import standing
from delayer.stages.tune import tune_stage
from delayer.stages.work import Work, open_work, write_study

__all__ = [
    "CheckOptions",
    "CompareOptions",
    "LoadOptions",
    "PlanOptions",
    "SaveOptions",
    "ScanOptions",
    "SitesOptions",
    "Work",
    "check_stage",
    "compare_stage",
    "cut_stage",
    "export_stage",
    "open_work",
    "plan_stage",
    "report_stage",
    "run",
    "run_all",
    "scan_stage",
    "score_stage",
    "shrink_stage",
    "sites_stage",
    "standing",
    "tune_stage",
    "write_study",
]
