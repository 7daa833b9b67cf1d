"""Operators: what can stand where a span of blocks stood. One a file: what it fits, the module it puts in, its cost, its options.

A new file that calls `operator` has its name under --operator and --operators, its place in the scan, in plans, in saved networks
and in the report, and the tests of its kind. Its fields are its options.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from delayer.errors import ModelError, PlanError, PlugInError
from delayer.fitting.affine import RIDGES, TIE, Fits, unfit
from delayer.fitting.ridge import largest_as_good
from delayer.network.chain import Chain, Span
from delayer.network.inside_block import Tail
from delayer.observing.stats.pair import Pair, relative_residual
from delayer.registry import Registry
from delayer.study import Record, first_fault

if TYPE_CHECKING:
    from delayer.fitting.evidence import Evidence


class Solution(NamedTuple):
    """A map in float64.

    weight: W [d, d], or its diagonal [d]. bias: b [d]. factors: what else the module holds, by the names of its parameters.
    """

    weight: Tensor
    bias: Tensor
    factors: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Ends:
    """What a scan knows of a span: moments of its two ends, of rows that maps are fitted to and of rows held out.

    fits: of the first end, shared by all spans that begin there.
    """

    seen: Pair
    unseen: Pair
    fits: Fits

    @cached_property
    def ridge(self) -> float:
        """The ridge with which the full map does best on held-out rows."""
        return self.fits.best_ridge(self.seen, self.unseen, RIDGES)


class Operator(Record):
    """What can stand where a span of blocks stood; frozen, its fields are its options.

    name: in files and on the command line. source: where it was published. scanned: whether scans look at it by default.
    removes: it leaves nothing in the span's place. reads: second moments of the span's ends, or patches of pictures on the
    stream of the network cut so far.
    """

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    scanned: ClassVar[bool] = False
    removes: ClassVar[bool] = False
    reads: ClassVar[Literal["moments", "patches"]] = "moments"

    @property
    def title(self) -> str:
        """Its name for people, with the options that tell it from others of its kind."""
        return self.name.replace("_", " ")

    @property
    def label(self) -> str:
        """What stands there, in two or three words."""
        return f"{self.title} map"

    @classmethod
    def settings(cls, width: int) -> Sequence[Self]:
        """Those of its settings that a scan looks at, for d = width features; none where it has no place."""
        return (cls(),)

    def tuned(self, ends: Ends) -> Self:
        """The same with the options that do best on held-out rows: its ridge, the largest of those that tie, where it has one."""
        if getattr(self, "ridge", 0.0) is not None:  # given by hand, or it has none
            return self
        each = {ridge: self.model_copy(update={"ridge": ridge}) for ridge in RIDGES}
        errors = {ridge: relative_residual(ends.unseen, *one.solve(ends.seen, ends.fits)[:2]) for ridge, one in each.items()}
        return each[largest_as_good(errors, slack=TIE)]

    @property
    def keeps_activation(self) -> bool:
        """Whether the activation that the span's last block ends in stands behind it."""
        return False

    def suited(self, tail: Tail) -> Self:
        """The same for a span whose last block ends in a sum or a layer ("identity"), or in a ReLU behind it ("relu")."""
        return self

    def check(self, width: int, axis: int) -> None:
        """Raises PlanError where it has no place: d = width features on an axis."""

    def num_params(self, width: int) -> int:
        """Parameters that it puts in."""
        raise NotImplementedError

    def num_macs(self, width: int) -> int:
        """Multiply-adds for one token or pixel."""
        raise NotImplementedError

    def module(self, width: int, axis: int = -1) -> nn.Module:
        """The module that it puts in, before anything was fitted: the identity."""
        raise NotImplementedError

    def solve(self, pair: Pair, fits: Fits | None = None) -> Solution:
        """The map that brings a pair's first rows nearest to its second ones.

        fits: a decomposition of the first end to share; its own where None.
        """
        raise NotImplementedError

    def fitted(self, chain: Chain, span: Span, evidence: "Evidence") -> nn.Module:
        """The module for a span of a chain, fitted to what was gathered."""
        return fit(evidence.pair(*chain.ends(span)), self, axis=chain.axis)


operators: Registry[type[Operator]] = Registry("operator", "delayer.fitting.operators")
O_ = TypeVar("O_", bound=type[Operator])


def operator(name: str) -> Callable[[O_], O_]:
    """Register a class as the operator of that name.

    Raises PlugInError for options whose names stand for something else where a plan writes them, and for a class that lacks
    what an operator of its kind has to say.
    """

    def add(kind: O_) -> O_:
        if taken := sorted({"edit", "start", "stop", "operator"} & kind.model_fields.keys()):
            raise PlugInError(
                f"The operator {name} has an option {taken[0]}, which says something else in a plan. Give it another name."
            )
        needed = ["num_params", "num_macs"] if kind.removes else ["num_params", "num_macs", "module"]
        if kind.reads == "moments" or kind.fitted is Operator.fitted:
            needed.append("solve")
        if missing := [one for one in needed if getattr(kind, one) is getattr(Operator, one)]:
            raise PlugInError(f"The operator {name} does not say its {missing[0]}. Write that method; see docs/extend.md.")
        kind.name = name
        operators.register(name)(kind)
        return kind

    return add


def operator_of(name: str, options: Mapping[str, Any] | None = None) -> Operator:
    """The operator of a name with some options, those that are None left at their defaults.

    Raises UnknownName for a name that nobody registered, PlanError for options that it does not take.
    """
    kind = operators[name]
    given = {key: value for key, value in (options or {}).items() if value is not None or key not in kind.model_fields}
    if away := [key for key in given if key not in kind.model_fields]:
        takes = f"takes {', '.join(kind.model_fields)}" if kind.model_fields else "takes no options"
        raise PlanError(f"The operator {name} has no option {away[0]} ({away[0]}={given[away[0]]!r} was given); it {takes}.")
    try:
        return kind.model_validate_json(json.dumps(given, default=_plain_number), strict=True)
    except ValidationError as error:
        raise PlanError(f"The operator {name} was given options that do not do: {first_fault(error)}.") from error


def _plain_number(value: Any) -> Any:
    """numpy's and torch's numbers as Python's. Raises PlanError for anything else that is no plain value."""
    found = value.item() if callable(getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0 else None
    if not isinstance(found, bool | int | float):
        raise PlanError(f"An option of an operator is a number or a word, not {type(value).__name__}. Give a plain one.")
    return found


def settings_of(name: str, width: int, options: Mapping[str, Any] | None = None) -> tuple[Operator, ...]:
    """The settings of an operator that are worth a look for d = width features, with some options fixed.

    Raises what `operator_of` raises.
    """
    kind = operators[name]
    if not options:
        return tuple(kind.settings(width))
    base = [one.model_dump() for one in kind.settings(width)] or [{}]
    return tuple(dict.fromkeys(operator_of(name, one | dict(options)) for one in base))


def scanned_operators() -> tuple[str, ...]:
    """The operators that a scan looks at by default, those with the fewest parameters first."""
    most = {name: max((one.num_params(64) for one in kind.settings(64)), default=0) for name, kind in operators.items()}
    return tuple(sorted((name for name, kind in operators.items() if kind.scanned), key=lambda name: most[name]))


def fit(pair: Pair, operator: Operator, *, axis: int = -1, fits: Fits | None = None) -> nn.Module:
    """The map of one kind that fits a pair's rows best, in float32 parameters.

    fits: a decomposition to share between spans that begin at the same point.
    Raises ModelError where the rows are not finite, all but zero, or always the same.
    """
    if why := unfit(pair):
        raise ModelError(f"No {operator.name} map can be fitted here: {why}. Drop this span, or choose another.")
    solution, module = operator.solve(pair, fits), operator.module(pair.width, axis)
    found = solution.factors if solution.factors is not None else {"weight": solution.weight}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(solution.bias if name == "bias" else found[name])
    return module


__all__ = ["Ends", "Operator", "Solution", "fit", "operator", "operator_of", "operators", "scanned_operators", "settings_of"]


def __getattr__(name: str) -> Any:
    """A registered class by its name, such as `delayer.operators.LowRank`."""
    if name[:1].isupper():
        for kind in operators.values():
            if kind.__name__ == name:
                return kind
    raise AttributeError(f"{__name__} has no {name}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(kind.__name__ for kind in operators.values())})
