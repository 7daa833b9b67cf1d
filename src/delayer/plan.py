"""A plan: an ordered set of edits for one model, as a JSON file that can be edited and replayed."""

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator
from torch import nn

from delayer.activations.counting import switches_of
from delayer.activations.switches import Switches
from delayer.edits import Edit, edit_from
from delayer.errors import PlanError
from delayer.fitting.streams import Streams
from delayer.network.chain import Chain, Span
from delayer.network.hashing import model_hash
from delayer.observing.one_pass import observe
from delayer.observing.rows import Rows
from delayer.observing.stats import Moments
from delayer.study import Record, Seed, read_record, write_atomically


class Plan(Record):
    """What is cut from which network, and what the cut was fitted on."""

    format: Literal[1] = 1
    model: str
    """The network's name, for people."""
    model_hash: str
    """Fingerprint of the weights that the plan was made for; "" takes any network of the same shape."""
    data_hash: str = ""
    """Fingerprint of the data that the plan was made on."""
    num_blocks: int = Field(ge=0, lt=100_000)
    edits: tuple[SerializeAsAny[Edit], ...] = Field(max_length=100_000)
    refit: Literal["independent", "sequential"] = "independent"
    """Whether maps are fitted on the original stream, or on the stream of the network cut so far."""
    rows: str = "each"
    """The rows that maps are fitted on."""
    seed: Seed = 0

    @field_validator("edits", mode="before")
    @classmethod
    def _edits(cls, value: Any) -> tuple[Edit, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError("the edits of a plan are a list")
        return tuple(edit_from(item) for item in value)

    @field_validator("rows")
    @classmethod
    def _rows(cls, rows: str) -> str:
        parse_rows(rows)
        return rows

    @model_validator(mode="after")
    def _disjoint(self) -> "Plan":
        spans = sorted(span for edit in self.edits for span in edit.spans)
        for one, two in zip(spans, spans[1:], strict=False):
            if one.overlaps(two):
                raise ValueError(f"spans {one} and {two} overlap; merge them or shorten one")
        return self

    def check(self, chain: Chain, *, weights: bool = True) -> None:
        """Raises PlanError when the plan was made for another network, SpanError when a span does not fit."""
        if self.num_blocks != chain.num_blocks:
            raise PlanError(
                f"This plan is for a network of {self.num_blocks} blocks ({self.model}); "
                f"this one has {chain.num_blocks}. Make a plan for this network."
            )
        if weights and self.model_hash and (found := model_hash(chain.model)) != self.model_hash:
            raise PlanError(
                f"This plan is for {self.model} with weights {self.model_hash}; this network has weights {found}. "
                "Load those weights, or empty model_hash in the plan to use it all the same."
            )
        for edit in self.edits:
            edit.check(chain)

    def needs(self, chain: Chain) -> tuple[tuple[int, int], ...]:
        """Pairs of points whose moments the edits read."""
        return tuple(dict.fromkeys(pair for edit in self.edits for pair in edit.needs(chain)))

    @property
    def gone(self) -> set[int]:
        """Blocks that leave their lists."""
        return set().union(*(edit.gone for edit in self.edits)) if self.edits else set()

    @property
    def drops_only(self) -> bool:
        """Nothing new stands in the network: blocks leave, and those that stay keep their shapes."""
        return not any(edit.reshapes for edit in self.edits)

    def save(self, path: str | Path) -> None:
        write_atomically(Path(path), self.model_dump_json(indent=1))


def read_plan(path: str | Path) -> Plan:
    """The plan in a file. Raises PlanError that names what is wrong with it."""
    path = Path(path)
    if not os.path.lexists(path):
        raise PlanError(f"There is no plan {path}. Make one with `delayer plan`, or give --span.")
    return read_record(path, Plan, PlanError)


def parse_rows(text: str) -> Rows:
    """The row policy that `str(rows)` wrote."""
    kind, _, share = text.partition(":")
    return Rows(kind, float(share) if share else 1.0)


def edit_modules_(chain: Chain, edits: Sequence[Edit], stats: Moments | None) -> None:
    """Put every edit's modules in place; the chain keeps its numbering until it is compacted."""
    for edit in edits:
        edit.apply_(chain, stats)


def apply_(
    chain: Chain, plan: Plan, stats: Moments | None = None, *, data: Sequence[Any] | None = None, progress=None
) -> nn.Module:
    """Cut a chain's model as planned, in place, and get the model.

    stats: moments of the pairs that the plan needs; None together with no data builds the shapes alone, which is what
    loading does.
    data: batches to gather what is missing from: moments for refit="independent", and for refit="sequential" the pass
    that fits each map on the stream of the network cut so far against the original's targets.
    The chain's block numbers are void afterwards.
    """
    plan.check(chain, weights=stats is not None or data is not None)
    rows = parse_rows(plan.rows)
    needs = plan.needs(chain)
    follows = any(edit.follows for edit in plan.edits)
    watches = tuple(dict.fromkeys(path for edit in plan.edits for path in edit.watches))
    if data is not None and (follows or ((needs or watches) and plan.refit == "sequential")):
        if plan.refit == "independent" and needs and stats is None:
            stats = Moments(needs, rows, exact=True)
            observe(chain, data, [stats], seed=plan.seed, progress=progress)
        fit_edits_(
            chain,
            plan.edits,
            data,
            rows,
            seed=plan.seed,
            moments=stats if plan.refit == "independent" else None,
            progress=progress,
        )
    else:
        if needs and stats is None and data is not None:
            stats = Moments(needs, rows, exact=True)
            observe(chain, data, [stats], seed=plan.seed, progress=progress)
        found = _Watched(switches_of(chain, watches, data)) if watches and data is not None else None
        for edit in plan.edits:
            edit_modules_(chain, [edit], found if edit.watches and found is not None else stats)
    chain.compact_(plan.gone)
    # A saved copy is rebuilt by one plan, so a second cut is noted as one that no plan tells.
    chain.model.delayer_edits = None if hasattr(chain.model, "delayer_edits") else plan.edits
    return chain.model


@dataclass(frozen=True)
class _Watched:
    """Statistics of activations, as edits ask for them."""

    found: dict[str, Switches]

    def switches(self, site: str) -> Switches:
        return self.found[site]


def fit_edits_(
    chain: Chain,
    edits: Sequence[Edit],
    data: Sequence[Any],
    rows: Rows = Rows(),
    *,
    seed: int = 0,
    moments: Moments | None = None,
    original: Chain | None = None,
    progress=None,
) -> None:
    """Put every edit's modules in place, first block first, each fitted on the stream of the network cut so far.

    moments: of the original's stream, for maps that are to be fitted on it alone.
    original: the network as it was; a copy is made where none is given.
    progress: called with (edits done, edits in all).
    """
    original = original or Chain(deepcopy(chain.model), chain.family, chain.blocks)
    streams = Streams(chain, original, data, rows, seed=seed, moments=moments)
    for done, edit in enumerate(sorted(edits, key=lambda edit: (not edit.spans, edit.spans))):
        if edit.spans:
            streams.begin_at(edit.spans[0].start)
        edit.apply_(chain, streams)
        if progress:
            progress(done + 1, len(edits))


def apply(
    chain: Chain, plan: Plan, stats: Moments | None = None, *, data: Sequence[Any] | None = None, progress=None
) -> nn.Module:
    """A copy of a chain's model, cut as planned; the original stays as it was. See `apply_`.

    Raises PlanError when the plan has maps to fit and neither stats nor data are given.
    """
    if stats is None and data is None and (maps := [edit.label for edit in plan.edits if edit.needs_stats]):
        raise PlanError(f"The plan fits {', '.join(maps)}, but there is nothing to fit on. Give stats= or data=.")
    copy = Chain(deepcopy(chain.model), chain.family, chain.blocks)
    return apply_(copy, plan, stats, data=data, progress=progress)


def plan_by_hand(
    chain: Chain,
    spans: Sequence[Span | str],
    *,
    operator: str = "affine",
    model: str = "",
    ridge: float | None = None,
    rank: int | None = None,
    kernel: int | None = None,
    tail: str = "identity",
    refit: str = "independent",
) -> Plan:
    """A plan from spans given by hand; operator "drop" takes them out, any other replaces each by one map.

    kernel, tail: for the operator "conv", 1, 3 or 5 wide (3 by default) and with "relu" behind it where blocks end in one.
    """
    from delayer.edits.drop_span import DropSpan
    from delayer.edits.replace_span import ReplaceSpan

    more = {"kernel": kernel or 3, "tail": tail} if operator == "conv" else {}
    edits: list[Edit] = []
    for item in spans:
        span = Span.parse(item) if isinstance(item, str) else item
        chain.check(span)
        edits.append(
            DropSpan(start=span.start, stop=span.stop)
            if operator == "drop"
            else ReplaceSpan(start=span.start, stop=span.stop, operator=operator, ridge=ridge, rank=rank, **more)
        )
    return Plan(
        model=model or type(chain.model).__name__,
        model_hash=model_hash(chain.model),
        num_blocks=chain.num_blocks,
        edits=tuple(edits),
        refit=refit,
    )
