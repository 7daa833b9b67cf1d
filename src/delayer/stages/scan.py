"""Stage: the held-out error of every operator on every span."""

from delayer.search.options import ScanOptions
from delayer.search.scan import scan_subject
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.work import Work
from delayer.study import Scan


def scan_stage(work: Work, options: ScanOptions = ScanOptions()) -> Scan:
    """scan.json: every operator on every span, with the options that do best on held-out rows."""
    key = stage_key(work, "scan", options, work.task_options)
    if is_finished(work, "scan", key):
        return work.study.read("scan")
    found = scan_subject(work, options)
    work.study.write("scan", found)
    finish(work, "scan", key, ["scan.json"])
    return found
