"""A chain as a file tells of it: types and bounds are checked before anything is built from them."""

import json
from dataclasses import fields
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from delayer.errors import ModelError
from delayer.network.blocks import Block

MOST_BLOCKS, MOST_NUMBER, MOST_POSITIONS = 100_000, 2**24, 2**40
"""Most blocks, highest of a width or another small number, and most rows of one sample."""

MOST_ITEMS, MOST_LETTERS = 1000, 1000
"""Most items of a block's answer, and letters of a name or reason."""


class Facts(BaseModel):
    """What `Chain.facts` gives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str = Field(max_length=1000)
    axis: Literal[-1, 1]
    rows: Literal["each", "mean", "first", "last"]
    blocks: tuple[Block, ...] = Field(max_length=MOST_BLOCKS)

    @model_validator(mode="after")
    def _agrees(self) -> "Facts":
        if len({block.path for block in self.blocks}) < len(self.blocks):
            raise ValueError("two blocks have the same path")
        point = -1
        for block in self.blocks:
            if block.inlet not in (point, point + 1) or block.inlet < 0 or block.outlet != block.inlet + 1:
                raise ValueError(f"block {block.path[:100]} goes from point {block.inlet} to {block.outlet}, after point {point}")
            point = block.outlet
            if fault := _fault(block):
                raise ValueError(f"block {block.path[:100]} {fault}")
            numbers = [getattr(block, field.name) for field in fields(block)]
            small = [n for n in numbers if type(n) is int and n is not block.positions]
            if min(small) < 0 or max(small) > MOST_NUMBER or not 0 <= block.positions <= MOST_POSITIONS:
                raise ValueError(f"block {block.path[:100]} has a width or another number out of all bounds")
        return self


def _fault(block: Block) -> str:
    """What is wrong with what is said of a block's call and answer; "" where it agrees with itself."""
    if block.returns > MOST_ITEMS or not 0 <= block.hidden < max(block.returns, 1):
        return f"has its hidden state at {block.hidden} of {block.returns} items"
    if len(block.names) != (block.returns if block.form in ("dict", "named tuple", "record") else 0) and block.returns:
        return f"answers with a {block.form} of {block.returns} items and has names for {len(block.names)}"
    if len(set(block.names)) < len(block.names) or (block.form == "named tuple" and not all(map(str.isidentifier, block.names))):
        return "has items whose names cannot be"
    if len(block.passes) > block.returns or max(map(len, (block.takes, block.stays, *block.names, *block.passes))) > MOST_LETTERS:
        return "hands on more than it answers with, or has a name that is too long"
    return ""


def facts_of(facts: Any) -> Facts:
    """Facts that were read from a file. Raises ModelError naming what is wrong with them."""
    try:
        return Facts.model_validate_json(json.dumps(facts), strict=True)  # lists for tuples, and else a number is a number
    except (ValueError, TypeError) as problem:
        why = str(problem)
        if isinstance(problem, ValidationError):
            first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
            why = f"{'.'.join(str(part)[:60] for part in first['loc']) or 'the whole'}: {first['msg'][:300]}"
        raise ModelError(
            f"The chain that the folder's delayer.json tells of is damaged: {why}. "
            "Fetch the folder again, or cut the network anew."
        ) from problem
