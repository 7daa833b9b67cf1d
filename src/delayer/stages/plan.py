"""Stage: what to cut, chosen on validation data."""

from delayer.cutting import Plan, read_plan
from delayer.errors import StudyError
from delayer.search.choose import choose
from delayer.search.exporting import with_trial
from delayer.search.options import PlanOptions, ScanOptions
from delayer.stages.artefacts import changed, finish, is_finished, stage_key
from delayer.stages.work import Work
from delayer.study import Candidates, Study
from delayer.study.marks import read_marks

BESIDE = ("candidates", "spans")
"""Records that a plan may leave beside itself."""


def plan_stage(work: Work, options: PlanOptions, scan_options: ScanOptions = ScanOptions()) -> Plan:
    """plan.json, and candidates.json or spans.json where cuts were measured: what to cut, chosen on validation data."""
    decides = options.model_copy(update={"try_onnx": True})  # a trial says something of the plan, and changes none
    key = stage_key(work, "plan", decides, scan_options, work.task_options)
    path = work.study.path("plan.json")
    if "plan.json" in changed(work, "plan") and path.exists():
        _keep_edited(work, key)
    if is_finished(work, "plan", key):
        plan = read_plan(path)
        if options.try_onnx:
            _try_later(work, plan, key)
        return plan
    found = choose(work, options, scan_options)
    candidates = found.candidates
    if candidates is not None and options.try_onnx:
        candidates = with_trial(work, candidates, found.cut, _exporting(work))
    for name, record in (("candidates", candidates), ("spans", found.spans)):
        if record is None:  # what an earlier plan left
            work.study.discard(name)
        else:
            work.study.write(name, record)
    found.plan.save(path)
    _finish(work, key)
    return found.plan


def _finish(work: Work, key: str) -> None:
    finish(work, "plan", key, ["plan.json", *(Study.FILES[name][0] for name in BESIDE if work.study.has(name))])


def _exporting(work: Work) -> str:
    return f"delayer export {work.study.folder}"


def _try_later(work: Work, plan: Plan, key: str) -> None:
    """Try the export of a plan that was made without; the plan stays as it is."""
    if not work.study.has("candidates"):
        return
    candidates: Candidates = work.study.read("candidates")
    tried = candidates if candidates.onnx_note else with_trial(work, candidates, plan.edits, _exporting(work))
    if tried != candidates:
        work.study.write("candidates", tried)
        _finish(work, key)


def _keep_edited(work: Work, key: str) -> None:
    """A plan.json that its owner edited is not written over unseen. Raises StudyError where the same is asked again."""
    path, kept = work.study.path("plan.json"), work.study.path("plan.edited.json")
    if read_marks(work.study)["plan"].key == key:
        raise StudyError(
            f"{path} was edited since it was planned. Cut it as it is now by `delayer cut {work.study.folder}`, or delete it to "
            "plan again."
        )
    path.replace(kept)
    work.reporter.line(f"The plan that was edited by hand lies in {kept} now.")
