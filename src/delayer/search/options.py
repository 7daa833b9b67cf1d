"""What may be asked of a search; the line under each field is its command-line help."""

from typing import Annotated, Any, Literal

from pydantic import Field

from delayer.errors import BudgetError
from delayer.fitting.operators import operators, scanned_operators
from delayer.registry.options import OptionsOf
from delayer.study import Record


class ScanOptions(Record):
    """How spans are judged before anything is cut."""

    operators: str = ""
    """Operators to judge on every span, separated by commas; by default drop, diagonal, low_rank and affine, and those of
    plug-ins that ask for it."""
    share: float = Field(default=0.25, gt=0, le=1)
    """Share of the tokens or pixels that maps are fitted and judged on during the scan."""
    memory: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Memory that statistics may take, GiB; decides between one full pass and two lighter ones."""


class PlanOptions(Record):
    """What to cut."""

    remove: str | None = None
    """What to remove: blocks=3, params=25%, macs=25% or latency=20% (the share removed)."""
    max_drop: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Cut as deep as the validation grade falls by at most so many points of percent (perplexity: percent of the original's)."""
    span: tuple[str, ...] = ()
    """A span by hand, START:STOP with STOP excluded; may be repeated."""
    method: str = "ours"
    """ours (searched and measured), or one as its paper has it, such as rba, redtest, shortgpt or ghosted (`delayer list methods`
    names all)."""
    operator: str | None = None
    """Operator for spans by hand, such as affine, low_rank, conv or drop (`delayer list operators` names all); by default chosen
    on held-out data."""
    operator_options: Annotated[dict[str, Any], OptionsOf("delayer.fitting.operators", "operators")] = {}
    """Options of that operator, by name."""
    refit: Literal["best", "independent", "sequential"] = "best"
    """Maps are fitted on the original stream (independent), the cut network's (sequential), or as validation likes best."""
    repair: Literal["auto", "none", "resolve", "norms", "best"] = "auto"
    """Closed-form repair of the blocks that stay: none, resolve (last layers solved anew), norms (batch norms counted anew),
    best, or auto: best for a network that writes text, else none. Left out where validation does not like it."""
    repair_samples: int = Field(default=256, gt=0)
    """Fit samples of the quick repair after which each cut of a search is judged, with --repair resolve or best; of text 4,096
    tokens at most."""
    prefer: Literal["ordinary", "accuracy"] = "ordinary"
    """ordinary: a cut whose result its own library opens wins where validation cannot tell that it is worse; accuracy: the least
    damage wins, whatever opens it."""
    try_onnx: bool = True
    """Try as an ONNX graph what one block of each kind makes that the chosen cut leaves, so that the table of cuts says whether
    it exports."""
    samples: int = Field(default=128, gt=0)
    """Validation samples that each cut is judged on during the search; the best few are judged on all."""
    effort: int = Field(default=24, ge=0)
    """How many sets of cuts the real network may judge, besides single blocks."""


def operators_of(text: str) -> tuple[str, ...]:
    """The operators that a text names, each once; those that a scan looks at by default where there is no text.

    Raises BudgetError for an unknown one, for one that no scan can judge, or where it names none.
    """
    if text == "":
        return scanned_operators()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = [name for name, kind in operators.items() if kind.reads == "moments"]
    for name in names:
        if name not in known:
            raise BudgetError(f"There is no operator {name!r} that a scan can judge. Use {', '.join(known)}.")
    if not names:
        raise BudgetError(f"--operators {text!r} names no operator. Use some of {', '.join(known)}.")
    return names
