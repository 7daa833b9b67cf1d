"""Edits: one declared change to a chain a file; frozen, JSON. Edits never measure.

A new file that calls `edit` has its place in plans, in the command line and in the report.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self, TypeVar

from pydantic import model_validator

from delayer.activations.sites import Site
from delayer.errors import UnknownName
from delayer.fitting.evidence import Evidence
from delayer.network.chain import Chain, Span
from delayer.registry import Registry
from delayer.study import EditInfo, Index, Record, shortened


class Edit(Record):
    """One declared change to a chain."""

    edit: str
    """The edit's name."""
    reshapes: ClassVar[bool] = True
    """Whether something new stands in the network afterwards, which the network's own loader does not know."""

    @property
    def needs_stats(self) -> bool:
        """Whether `apply_` fits something, so that it needs evidence (or, without it, builds shapes only)."""
        return False

    @property
    def follows(self) -> bool:
        """Whether it can only be fitted on the stream of the network cut so far, so that edits are made in order."""
        return False

    @property
    def label(self) -> str:
        """One line that says what it does."""
        raise TypeError(f"{type(self).__name__} says no label.")

    @property
    def spans(self) -> tuple[Span, ...]:
        """The blocks that it touches."""
        return ()

    @property
    def removed(self) -> tuple[Span, ...]:
        """The blocks whose weights it takes away."""
        return self.spans

    def num_params(self, chain: Chain) -> int:
        """Parameters that it puts in their place."""
        return 0

    def num_macs(self, chain: Chain) -> int:
        """Multiply-adds that it puts in their place, for one sample."""
        return 0

    @property
    def stands_there(self) -> str:
        """What stands where its blocks stood: "drop" for nothing, or the name of an operator."""
        return "drop"

    @property
    def gone(self) -> set[int]:
        """Blocks that leave their lists for good."""
        return set()

    def place(self, chain: Chain) -> str:
        """Path of the module in whose place it puts another."""
        return chain.blocks[self.spans[0].start].path

    def silenced(self, sites: Sequence[Site]) -> tuple[str, ...]:
        """Paths of those activations, in the order in which they run, that are no longer there afterwards."""
        inside = {block for span in self.spans for block in range(span.start, span.stop)}
        return tuple(site.path for site in sites if site.block in inside)

    def check(self, chain: Chain) -> None:
        """Raises SpanError or PlanError where it does not fit the chain."""
        for span in self.spans:
            chain.check(span)

    def needs(self, chain: Chain) -> tuple[tuple[int, int], ...]:
        """Pairs of points whose moments it reads."""
        return ()

    @property
    def watches(self) -> tuple[str, ...]:
        """Paths of the activations whose statistics it reads."""
        return ()

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> object:
        """Change the chain; with no evidence build the shapes alone, for weights to be loaded into."""
        raise TypeError(f"{type(self).__name__} changes nothing.")

    def info(self) -> EditInfo:
        """The edit as plain data, for studies and reports."""
        return EditInfo(
            edit=self.edit, label=self.label, spans=tuple((s.start, s.stop) for s in self.spans), operator=self.stands_there
        )


class SpanEdit(Edit):
    """An edit of blocks start .. stop-1."""

    start: Index
    stop: Index

    @model_validator(mode="after")
    def _is_a_span(self) -> Self:
        if self.start >= self.stop:
            raise ValueError(f"span {self.start}:{self.stop} is empty; a span is START:STOP with STOP excluded")
        return self

    @property
    def spans(self) -> tuple[Span, ...]:
        """The span itself."""
        return (Span(self.start, self.stop),)


class FitInPlace(Edit):
    """An edit that fits weights anew where they stand, on the stream of the network cut so far; no block goes."""

    reshapes = False

    @property
    def needs_stats(self) -> bool:
        """It fits something."""
        return True

    @property
    def follows(self) -> bool:
        """It is made in its turn."""
        return True

    @property
    def removed(self) -> tuple[Span, ...]:
        """None."""
        return ()

    @property
    def stands_there(self) -> str:
        """Nothing new."""
        return ""


class FitBlock(FitInPlace):
    """One that fits weights of one block."""

    block: Index

    @property
    def spans(self) -> tuple[Span, ...]:
        """The block alone."""
        return (Span(self.block, self.block + 1),)


edits: Registry[type[Edit]] = Registry("edit", "delayer.edits")
E_ = TypeVar("E_", bound=type[Edit])


def edit(name: str) -> Callable[[E_], E_]:
    """Register a class as the edit of that name."""

    def add(kind: E_) -> E_:
        edits.register(name)(kind)
        return kind

    return add


def edit_from(data: Any) -> Edit:
    """The edit in a JSON object; the key "edit" names its kind."""
    if isinstance(data, Edit):
        return data
    if not isinstance(data, dict) or not isinstance(data.get("edit"), str):
        raise ValueError('an edit is an object such as {"edit": "drop_span", "start": 9, "stop": 11}')
    try:
        kind = edits[data["edit"]]
    except UnknownName as error:
        raise ValueError(shortened(str(error))) from error
    return kind.model_validate_json(json.dumps(data), strict=True)  # also out of Python a number is a number


__all__ = ["Edit", "FitBlock", "FitInPlace", "SpanEdit", "edit", "edit_from", "edits"]


def __getattr__(name: str) -> Any:
    """A registered class by its name, such as `delayer.edits.DropSpan`."""
    if name[:1].isupper():
        for kind in edits.values():
            if kind.__name__ == name:
                return kind
    raise AttributeError(f"{__name__} has no {name}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(kind.__name__ for kind in edits.values())})
