"""Stage: the held-out error of every operator on every span."""

from delayer.errors import DelayerError
from delayer.observing.rows import Rows
from delayer.search.scan import moment_groups, scan
from delayer.stages.artefacts import finish, is_finished, stage_key
from delayer.stages.asked import operators_of
from delayer.stages.options import ScanOptions
from delayer.stages.score import score_stage
from delayer.stages.work import Work
from delayer.study import Scan


def watched_groups(work: Work, options: ScanOptions) -> tuple[list[tuple[int, ...]], str]:
    """The points to watch together within the memory bound, and why; a first pass ranks spans where not all fit."""
    groups, why = moment_groups(work.chain, memory_bytes=options.memory * 2**30)
    if not groups:
        scores = score_stage(work)
        influence = next(s for s in scores.scores if s.name == "block_influence")
        ends = {span: work.chain.ends(span) for span in work.chain.spans()}
        prefer = sorted(ends, key=lambda s: influence.values[ends[s][0]][ends[s][1]] / len(s))
        groups, why = moment_groups(work.chain, memory_bytes=options.memory * 2**30, prefer=prefer)
        if not groups:
            raise DelayerError(
                f"Not one pair of points fits into {options.memory:g} GiB of statistics. Give --memory a larger bound."
            )
    return groups, why


def scan_stage(work: Work, options: ScanOptions = ScanOptions()) -> Scan:
    """scan.json: every operator on every span, with the ridge that does best on held-out rows."""
    key = stage_key(work, "scan", options, work.task_options)
    if is_finished(work, "scan", key):
        return work.study.read("scan")
    operators = operators_of(options.operators)
    (groups, why), rows = watched_groups(work, options), Rows("each", options.share)
    work.reporter.line(f"Scan: {why}.")
    fit, heldout = (work.moments(split, groups, rows) for split in ("fit", "validation"))
    with work.reporter.step("Judging every operator on every span"):
        found = scan(work.chain, fit, heldout, macs=work.block_macs, operators=operators)
    if found.failed:
        work.warnings.append(
            f"No map can be fitted to some spans ({len(found.failed)} in all, see scan.json); the first, {found.failed[0]}."
        )
        work.reporter.line(work.warnings[-1])
    work.study.write("scan", found)
    finish(work, "scan", key, ["scan.json"])
    return found
