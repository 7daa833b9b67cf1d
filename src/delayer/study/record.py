"""A frozen record, and how one is read."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from delayer.errors import DelayerError, StudyError


class Record(BaseModel):
    """A frozen record; unknown fields are refused, so a typing error in a hand-edited file is found."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, ser_json_inf_nan="constants")


R = TypeVar("R", bound=BaseModel)


def read_record(path: Path, kind: type[R], error: type[DelayerError] = StudyError) -> R:
    """The record in a JSON file. Raises `error` naming the field when the file is corrupted."""
    try:
        return kind.model_validate_json(path.read_text())
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise error(
            f"{path} is not a valid {kind.__name__}: {where}: {first['msg']}. "
            "Restore the file, or delete it and run the stage again."
        ) from problem
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise error(f"{path} cannot be read ({problem}). Restore it, or delete it and run again.") from problem
