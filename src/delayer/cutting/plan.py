"""A plan: an ordered set of edits for one model, as a JSON file that can be edited and replayed."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from delayer.edits import Edit, edit_from
from delayer.errors import PlanError
from delayer.network.chain import Chain
from delayer.network.hashing import model_hash
from delayer.observing.rows import Rows, row_kind
from delayer.study import Naming, Seed, read_record, write_atomically


class Plan(Naming):
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

    def _words(self) -> Iterator[tuple[str, str]]:
        for edit in self.edits:
            yield from (("edit", edit.edit), ("operator", edit.stands_there))

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
        for one, two in itertools.pairwise(spans):
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
        """Write it as JSON, which `read_plan` reads."""
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
    return Rows(row_kind(kind), float(share) if share else 1.0)
