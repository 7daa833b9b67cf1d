"""The held-out error of every operator on every span, from moments alone, before anything is cut."""

import math
from collections.abc import Iterable, Sequence

from delayer.fitting.affine import RIDGES, TIE, Fits, num_macs_a_row, num_params, solve, unfit
from delayer.network.chain import Chain, Span
from delayer.observing.stats import Moments
from delayer.observing.stats.pair import relative_residual
from delayer.study import Scan, SpanDamage

DEFAULT_OPERATORS = ("drop", "diagonal", "low_rank", "affine")


def ranks_for(width: int) -> tuple[int, ...]:
    """The ranks of low-rank updates that are worth a look: a sixth and a third of the width.

    Source: the third-party re-run of TOAST, where rank d/3 keeps 98 % of the gain and d/6 87 %.
    """
    return tuple(sorted({max(1, width // 6), max(1, width // 3)} - {width}))


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


def scan(
    chain: Chain,
    fit: Moments,
    heldout: Moments,
    *,
    macs: Sequence[int] | None = None,
    operators: Iterable[str] = DEFAULT_OPERATORS,
    spans: Iterable[Span] | None = None,
) -> Scan:
    """Every operator on every span, with the ridge that does best on held-out rows.

    fit, heldout: moments of disjoint samples.
    macs: multiply-adds of each block for one sample, to say what a span saves.
    spans: only these; by default all whose ends were watched together.
    Spans whose features no map can be fitted to keep the operator "drop" alone, and are told of in `failed`.
    A low-rank update takes the ridge of the full map: its own lies near, and finding it costs a decomposition each.
    """
    operators, found, failed = tuple(operators), [], []
    point, shared = -1, None
    for span in sorted(chain.spans() if spans is None else spans):
        ends = chain.ends(span)
        try:
            seen, unseen = fit.pair(*ends), heldout.pair(*ends)
        except KeyError:
            continue
        offered = operators
        if set(operators) != {"drop"} and (why := unfit(seen) or unfit(unseen)):
            failed.append(f"{span}: {why}")
            offered = tuple(operator for operator in operators if operator == "drop")
        if ends[0] != point and not {"affine", "low_rank"}.isdisjoint(offered):
            point, shared = ends[0], Fits(seen)
        ridge = shared.best_ridge(seen, unseen, RIDGES) if shared and offered == operators else None
        blocks, width = range(span.start, span.stop), seen.width
        params = sum(p.numel() for b in blocks for p in chain.module(b).parameters())
        for operator in offered:
            ridges = {"drop": (None,), "linear": (None,), "diagonal": RIDGES}.get(operator, (ridge,))
            for rank in ranks_for(width) if operator == "low_rank" else (None,):
                tried = []
                for ridge_ in ridges:
                    weight, bias, _ = solve(seen, operator, ridge=ridge_ or 0.0, rank=rank, fits=shared)
                    tried.append((relative_residual(unseen, weight, bias), ridge_, weight, bias))
                least = min((item[0] for item in tried if math.isfinite(item[0])), default=math.inf)
                residual, ridge_, weight, bias = next((item for item in reversed(tried) if item[0] <= least + TIE), tried[0])
                if not math.isfinite(residual):
                    failed.append(f"{span}: the error of {operator} is {residual}, since what it should give never changes")
                    continue
                positions = chain.blocks[span.start].positions
                found.append(
                    SpanDamage(
                        start=span.start,
                        stop=span.stop,
                        operator=operator,
                        ridge=ridge_,
                        rank=rank,
                        residual=residual,
                        residual_fit=relative_residual(seen, weight, bias),
                        params_saved=params - num_params(operator, width, rank),
                        macs_saved=None
                        if macs is None
                        else sum(macs[b] for b in blocks) - positions * num_macs_a_row(operator, width, rank),
                        blocks_saved=sum(chain.weight(b) for b in blocks),
                    )
                )
    return Scan(
        rows=str(fit.rows), num_rows_fit=fit.num_rows, num_rows_heldout=heldout.num_rows, spans=tuple(found), failed=tuple(failed)
    )
