"""A frozen record, what its numbers may be, and how one is read."""

from pathlib import Path
from typing import Annotated, Self, TypeVar, dataclass_transform

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from delayer.errors import DelayerError, StudyError
from delayer.study.reading import ADVICE, checksum, parsed, read_bytes, shortened

Count = Annotated[int, Field(ge=0, le=10**18)]
"""Of parameters, multiply-adds, bytes, samples."""
Index = Annotated[int, Field(ge=0, lt=100_000)]
"""Of a block, a point, an activation, a trial; also how many there are."""
Size = Annotated[int, Field(ge=1, le=10**9)]
"""Of a batch, a width, a picture."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""As torch takes it."""
Measurement = Annotated[float, Field(allow_inf_nan=True)]
"""What was measured or computed of a network, which may be infinite or undefined where the network is broken."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _Frozen(type(BaseModel)):
    """Tells type checkers that records are frozen, which they do not read in `model_config`.

    So the records can be hashed, and a kind of record may narrow a field of a wider one.
    """


class Record(BaseModel, metaclass=_Frozen):
    """A frozen record; unknown fields are refused, so a typing error in a hand-edited file is found.

    Numbers are finite unless their field says otherwise (`Measurement`).
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",
        allow_inf_nan=False,
        str_max_length=1_000_000,
    )


class Sealed(Record):
    """A record that nobody edits by hand: it carries the checksum of all the rest, and a copy that was changed is refused.

    One without a seal, of an earlier version, is taken as it is.
    """

    seal: str = ""

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        found = checksum(self.model_dump(mode="json", exclude={"seal"}))
        if self.seal not in ("", found):
            raise ValueError("it was changed after delayer wrote it, so that its seal no longer fits")
        object.__setattr__(self, "seal", found)
        return self


R = TypeVar("R", bound=BaseModel)


def read_record(path: Path, kind: type[R], error: type[DelayerError] = StudyError) -> R:
    """The record in a JSON file. Raises `error` naming the file and the field when it is damaged."""
    return record_in(read_bytes(path, error), str(path), kind, error)


def record_in(data: str | bytes, name: str, kind: type[R], error: type[DelayerError] = StudyError) -> R:
    """The record in a JSON text; name: of what holds it, for the error. A number is a number here, and no text of one."""
    what = kind.__name__.strip("_")
    parsed(data, name, error, what=what)  # refuses keys that occur twice, of which the next line would take the last
    try:
        return kind.model_validate_json(data, strict=True)
    except ValidationError as problem:
        raise error(f"{name} is not a valid {what}: {first_fault(problem)}. {ADVICE}") from problem
    except DelayerError as problem:
        raise error(f"{name} is not a valid {what}: {problem} {ADVICE}") from problem


def first_fault(problem: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
    return f"{shortened(where, 120)}: {shortened(first['msg'].removeprefix('Value error, '))}".rstrip(".")
