"""Cutting a network as planned: what the edits read is gathered from data, then their modules are put in place."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from delayer.activations.counting import switches_of
from delayer.cutting.plan import Plan, parse_rows
from delayer.edits import Edit
from delayer.errors import PlanError
from delayer.fitting.evidence import Evidence
from delayer.fitting.streams import Streams
from delayer.fitting.totals import Totals
from delayer.network.chain import Chain
from delayer.network.mapped import let_go
from delayer.network.notes import note_
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.observing.stats.patch_moments import Precision

Progress = Callable[[int, int], None]


def edit_modules_(chain: Chain, edits: Sequence[Edit], evidence: Evidence | None) -> None:
    """Put every edit's modules in place; the chain keeps its numbering until it is compacted."""
    for edit in edits:
        edit.apply_(chain, evidence)


def apply_(
    chain: Chain,
    plan: Plan,
    stats: Moments | Evidence | None = None,
    *,
    data: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Cut a chain's model as planned, in place, and get the model.

    stats: moments of the pairs that the plan needs, or all the evidence that its edits ask for; None together with no data
    builds the shapes alone, which is what loading does.
    data: batches to gather what is missing from: moments for refit="independent", and for refit="sequential" the pass
    that fits each map on the stream of the network cut so far against the original's targets.
    The chain's block numbers are void afterwards.
    """
    plan.check(chain, weights=stats is not None or data is not None)
    if stats is not None and not isinstance(stats, Moments | Evidence):
        raise PlanError(f"A network is cut by moments or evidence, not by {type(stats).__name__}. Give batches as data=.")
    if isinstance(stats, Evidence):
        edit_modules_(chain, plan.edits, stats)
    else:
        _fit_(chain, plan, stats, data, progress)
    chain.compact_(plan.gone)
    # A saved copy is rebuilt by one plan, so a second cut is noted as one that no plan tells.
    note_(chain.model, delayer_edits=None if hasattr(chain.model, "delayer_edits") else plan.edits)
    return chain.model


def _fit_(chain: Chain, plan: Plan, stats: Moments | None, data: Sequence[Any] | None, progress: Progress | None) -> None:
    """Put the plan's edits in place, fitted on what is there and on what is gathered from data."""
    watches = tuple(dict.fromkeys(path for edit in plan.edits for path in edit.watches))
    needs, rows, independent = plan.needs(chain), parse_rows(plan.rows), plan.refit == "independent"
    if independent and needs and stats is None and data is not None:
        stats = Moments(needs, rows, exact=True)
        observe(chain, data, [stats], seed=plan.seed, progress=progress)
    follows = any(edit.follows for edit in plan.edits) or (not independent and bool(needs or watches))
    if follows and data is not None:
        moments = stats if independent else None
        fit_edits_(chain, plan.edits, data, rows, seed=plan.seed, moments=moments, progress=progress)
    else:
        counted = switches_of(chain, watches, data).__getitem__ if watches and data is not None else None
        edit_modules_(chain, plan.edits, None if stats is None and data is None else Evidence(stats, activations=counted))


def fit_edits_(
    chain: Chain,
    edits: Sequence[Edit],
    data: Sequence[Any],
    rows: Rows = Rows(),
    *,
    seed: int = 0,
    moments: Moments | None = None,
    original: Chain | None = None,
    tried: bool = False,
    totals: Totals | None = None,
    precision: Precision = "usual",
    progress: Progress | None = None,
) -> None:
    """Put every edit's modules in place, first block first, each fitted on the stream of the network cut so far.

    moments: of the original's stream, for maps that are to be fitted on it alone.
    original: the network as it was; a copy is made where none is given. tried, totals, precision: see `Streams`.
    progress: called with (edits done, edits in all).
    """
    original = original or chain.copy()
    streams = Streams(chain, original, data, rows, seed=seed, moments=moments, tried=tried, totals=totals, precision=precision)
    for done, edit in enumerate(sorted(edits, key=lambda edit: (not edit.spans, edit.spans))):
        if edit.spans:
            streams.begin_at(edit.spans[0].start)
        edit.apply_(chain, Evidence(streams=streams))
        let_go(chain.model)  # also of what was changed in blocks that passes begin behind
        if progress:
            progress(done + 1, len(edits))


def apply(
    chain: Chain,
    plan: Plan,
    stats: Moments | Evidence | None = None,
    *,
    data: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """A copy of a chain's model, cut as planned; the original stays as it was. See `apply_`.

    Raises PlanError when the plan has maps to fit and neither stats nor data are given.
    """
    if stats is None and data is None and (maps := [edit.label for edit in plan.edits if edit.needs_stats]):
        raise PlanError(f"The plan fits {', '.join(maps)}, but there is nothing to fit on. Give stats= or data=.")
    copy = chain.copy()
    return apply_(copy, plan, stats, data=data, progress=progress)
