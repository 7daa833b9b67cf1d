"""One closed-form map where a span of blocks stood."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator

from delayer.activations.sites import Site
from delayer.edits import SpanEdit, edit
from delayer.errors import PlanError, UnknownName
from delayer.fitting.evidence import Evidence
from delayer.fitting.operators import Operator, operator_of, operators
from delayer.fitting.operators.affine import Affine
from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain, Span
from delayer.study import shortened

MOST_TIMES, FEW_PARAMS = 4, 2**24
"""A map of more parameters than so many original networks, and these, is refused before it is built."""

SAYS_NOTHING = {"tail": "identity", "sweeps": 1, "ridge": None, "rank": None, "kernel": None}
"""What earlier versions wrote of every operator, also of those that have no such option."""


@edit("replace_span")
class ReplaceSpan(SpanEdit):
    """Blocks start .. stop-1 become one map from the span's first point to its last.

    operator: the map, an `Operator`. In files, and in calls that take them from files, its name with its options beside it:
    {"edit": "replace_span", "start": 3, "stop": 5, "operator": "low_rank", "rank": 32}.
    Source: RBA/TOAST, Cannistraci et al., arXiv 2410.04941. One map for the whole span, not a product of maps.
    Fidelity: the operator "linear" is the paper's; bias, ridge towards the identity and the other operators are ours.
    """

    edit: Literal["replace_span"] = "replace_span"
    operator: SerializeAsAny[Operator] = Affine()

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, data: Any) -> Any:
        """The operator's name and its options beside it, as one operator."""
        if not isinstance(data, dict) or isinstance(data.get("operator"), Operator):
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields and key != "operator"}
        options = {key: value for key, value in data.items() if key not in cls.model_fields}
        name = data.get("operator", Affine.name)
        if not isinstance(name, str):
            raise ValueError("an operator is given by its name")
        try:
            known = operators[name].model_fields
            silent = {
                k for k, v in options.items() if k in SAYS_NOTHING and type(v) is type(SAYS_NOTHING[k]) and v == SAYS_NOTHING[k]
            }
            options = {k: v for k, v in options.items() if k in known or k not in silent}
            return own | {"operator": operator_of(name, options)}
        except (UnknownName, PlanError) as error:
            raise ValueError(shortened(str(error))) from error

    @model_validator(mode="after")
    def _leaves_something(self) -> "ReplaceSpan":
        if self.operator.removes:
            raise ValueError(
                f'{self.operator.name} leaves nothing in a span\'s place. Write {{"edit": "drop_span", "start": {self.start}, '
                f'"stop": {self.stop}}}'
            )
        return self

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        whole = handler(self)
        return {key: value for key, value in whole.items() if key != "operator"} | {
            "operator": self.operator.name,
            **{key: value for key, value in whole["operator"].items() if value is not None},
        }

    @property
    def needs_stats(self) -> bool:
        return True

    @property
    def follows(self) -> bool:
        return self.operator.reads == "patches"

    @property
    def label(self) -> str:
        return f"{Span(self.start, self.stop)} → {self.operator.label}"

    @property
    def stands_there(self) -> str:
        return self.operator.name

    @property
    def gone(self) -> set[int]:
        return set(range(self.start + 1, self.stop))

    def silenced(self, sites: Sequence[Site]) -> tuple[str, ...]:
        """An operator may keep the activation that the span ends in."""
        gone = super().silenced(sites)
        return gone[:-1] if self.operator.keeps_activation else gone

    def num_params(self, chain: Chain) -> int:
        return self.operator.num_params(chain.blocks[self.start].in_width)

    def num_macs(self, chain: Chain) -> int:
        block = chain.blocks[self.start]
        return block.positions * self.operator.num_macs(block.in_width)

    def check(self, chain: Chain) -> None:
        width = chain.check(Span(self.start, self.stop)).width
        self.operator.check(width, chain.axis)
        most = MOST_TIMES * sum(p.numel() for p in chain.model.parameters()) + FEW_PARAMS
        if self.num_params(chain) > most:
            raise PlanError(
                f"{self.label} would have {self.num_params(chain):,} parameters for a width of {width}, more than "
                f"{MOST_TIMES} whole networks. The file that says so is damaged: restore it, or cut anew."
            )

    def needs(self, chain: Chain) -> tuple[tuple[int, int], ...]:
        return (chain.ends(Span(self.start, self.stop)),) if self.operator.reads == "moments" else ()

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        span = Span(self.start, self.stop)
        self.check(chain)
        if evidence is None:
            map = self.operator.module(chain.check(span).width, chain.axis)
        else:
            map = self.operator.fitted(chain, span, evidence)
        like = next(chain.module(self.start).parameters(), None)
        if like is not None:
            map = map.to(device=like.device, dtype=like.dtype)
        for index in range(self.start, self.stop):
            chain.replace_(index, StandIn(chain.module(index), chain.blocks[index], map if index == self.start else None))
