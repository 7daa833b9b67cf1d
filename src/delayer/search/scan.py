"""The held-out error of every operator on every span, from moments alone, before anything is cut."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from delayer.errors import DelayerError
from delayer.fitting.affine import Fits, unfit
from delayer.fitting.operators import Ends, Operator, Solution, scanned_operators, settings_of
from delayer.network.chain import Chain, Span
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.observing.stats.pair import relative_residual
from delayer.search.options import ScanOptions, operators_of
from delayer.study import Scan, SpanDamage

if TYPE_CHECKING:
    from delayer.search.subject import Subject


def moment_groups(chain: Chain, *, memory_bytes: float, prefer: Sequence[Span] = ()) -> tuple[list[tuple[int, ...]], str]:
    """Which points to watch together so that two sets of moments (fit and held-out) fit into memory, and why.

    All pairs of a segment where they fit. Otherwise only the ends of the spans in `prefer`, best first, as many as
    fit: then a light first pass (distances, angles, CKA) must have ranked them.
    """
    groups = [segment.points for segment in chain.segments]
    width = {p: s.width for s in chain.segments for p in s.points}
    need, limit = (f"{size / 2**30:.2f} GiB" for size in (2 * Moments.size_bytes(groups, width), memory_bytes))
    if 2 * Moments.size_bytes(groups, width) <= memory_bytes:
        return groups, f"one pass keeps the moments of all pairs ({need}, the limit is {limit})"
    pairs: list[tuple[int, ...]] = []
    left = memory_bytes
    for pair in map(chain.ends, prefer):
        size = 2 * Moments.size_bytes([pair], width)
        if size <= left:
            pairs.append(pair)
            left -= size
    return pairs, (
        f"the moments of all pairs would need {need}, the limit is {limit}: "
        f"a light first pass ranks the spans, a second keeps the {len(pairs)} best pairs"
    )


def watched_groups(subject: "Subject", options: ScanOptions) -> tuple[list[tuple[int, ...]], str]:
    """The points to watch together within the memory bound, and why; a first pass ranks spans where not all fit.

    Raises DelayerError where not one pair fits.
    """
    chain, memory = subject.chain, options.memory * 2**30
    groups, why = moment_groups(chain, memory_bytes=memory)
    if not groups:
        influence = subject.scored("block_influence")
        ends = {span: chain.ends(span) for span in chain.spans()}
        prefer = sorted(ends, key=lambda s: influence.values[ends[s][0]][ends[s][1]] / len(s))
        groups, why = moment_groups(chain, memory_bytes=memory, prefer=prefer)
        if not groups:
            raise DelayerError(
                f"Not one pair of points fits into {options.memory:g} GiB of statistics. Give --memory a larger bound."
            )
    return groups, why


def announce_scan(subject: "Subject", options: ScanOptions) -> None:
    """Have the next pass over the fit split gather what a scan will read of it, where memory holds all pairs of points."""
    groups, _ = moment_groups(subject.chain, memory_bytes=options.memory * 2**30)
    if groups:
        subject.announce("fit", groups, Rows("each", options.share))


def scan_subject(subject: "Subject", options: ScanOptions) -> Scan:
    """Every operator that was asked for on every span, fitted on the fit split and judged on validation data."""
    names = operators_of(options.operators)
    (groups, why), rows = watched_groups(subject, options), Rows("each", options.share)
    subject.reporter.line(f"Scan: {why}.")
    fit, heldout = (subject.moments(split, groups, rows) for split in ("fit", "validation"))
    with subject.reporter.step("Judging every operator on every span"):
        found = scan(subject.chain, fit, heldout, macs=subject.block_macs, operators=names)
    if found.failed:
        subject.warnings.append(
            f"No map can be fitted to some spans ({len(found.failed)} in all, see scan.json); the first, {found.failed[0]}."
        )
        subject.reporter.line(subject.warnings[-1])
    return found


def scan(
    chain: Chain,
    fit: Moments,
    heldout: Moments,
    *,
    macs: Sequence[int] | None = None,
    operators: Iterable[str | Operator] | None = None,
    spans: Iterable[Span] | None = None,
) -> Scan:
    """Every operator on every span, with the options that do best on held-out rows.

    fit, heldout: moments of disjoint samples.
    macs: multiply-adds of each block for one sample, to say what a span saves.
    operators: names, of which the settings worth a look are tried, or operators with options of their own; by default
    `scanned_operators`.
    spans: only these; by default all whose ends were watched together.
    Spans whose features no map can be fitted to keep operators that remove alone, and are told of in `failed`.
    Raises UnknownName for an operator that does not exist.
    """
    asked = tuple(scanned_operators() if operators is None else operators)
    found: list[SpanDamage] = []
    failed: list[str] = []
    point, fits = -1, None
    for span in sorted(chain.spans() if spans is None else spans):
        ends = chain.ends(span)
        try:
            seen, unseen = fit.pair(*ends), heldout.pair(*ends)
        except KeyError:
            continue
        offered = [one for item in asked for one in ((item,) if isinstance(item, Operator) else settings_of(item, seen.width))]
        if not all(one.removes for one in offered) and (why := unfit(seen) or unfit(unseen)):
            failed.append(f"{span}: {why}")
            offered = [one for one in offered if one.removes]
        if fits is None or ends[0] != point:
            point, fits = ends[0], Fits(seen)
        judged = Ends(seen, unseen, fits)
        for one in offered:
            tuned = one.tuned(judged)
            solution = tuned.solve(seen, fits)
            residual = relative_residual(unseen, solution.weight, solution.bias)
            if math.isfinite(residual):
                found.append(_damage(chain, span, tuned, judged, solution, residual, macs))
            else:
                failed.append(f"{span}: the error of {one.title} is {residual}, since what it should give never changes")
    return Scan(
        rows=str(fit.rows), num_rows_fit=fit.num_rows, num_rows_heldout=heldout.num_rows, spans=tuple(found), failed=tuple(failed)
    )


def _damage(
    chain: Chain, span: Span, one: Operator, ends: Ends, solution: Solution, residual: float, macs: Sequence[int] | None
) -> SpanDamage:
    """The scan's row of one operator on one span."""
    blocks, width = range(span.start, span.stop), ends.seen.width
    put_in = chain.blocks[span.start].positions * one.num_macs(width)
    return SpanDamage(
        start=span.start,
        stop=span.stop,
        operator=one.name,
        options=one.model_dump(exclude_none=True),
        title=one.title,
        residual=residual,
        residual_fit=relative_residual(ends.seen, solution.weight, solution.bias),
        params_saved=sum(p.numel() for b in blocks for p in chain.module(b).parameters()) - one.num_params(width),
        macs_saved=None if macs is None else sum(macs[b] for b in blocks) - put_in,
        blocks_saved=sum(chain.weight(b) for b in blocks),
    )
