"""What one forward pass tells about the blocks of a network."""

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from delayer.calling import Inputs, call, hidden_in, ready
from delayer.chain import Block
from delayer.errors import DelayerError, ModelError

BY_HAND = "Describe the blocks by hand: chain_of(model, example, blocks='REGULAR EXPRESSION')."


@dataclass
class Visit:
    """One run of one block."""

    path: str
    before: Tensor
    before_version: int
    after: Tensor | None = None
    after_version: int = 0
    returns: int = 0

    def hands_to(self, other: "Visit") -> bool:
        """The other block gets the very tensor that this one gave, unchanged in place on the way."""
        given, got = self.after, other.before
        same = given is got or (
            given.data_ptr() == got.data_ptr() and given.shape == got.shape and given.stride() == got.stride()
        )
        return same and self.after_version == other.before_version


def probe(model: nn.Module, paths: list[str], example: Inputs) -> list[Visit]:
    """The blocks in the order in which they run, with the tensors that they got and gave.

    Raises ModelError when a block does not run exactly once, gives no tensor, or when the forward pass fails.
    """
    visits: list[Visit] = []
    handles = []

    def enter(path):
        def hook(module, args, kwargs):
            hidden = hidden_in(args, kwargs)
            visits.append(Visit(path, hidden, hidden._version))

        return hook

    def leave(path):
        def hook(module, args, output):
            items = [output] if isinstance(output, Tensor) else output
            if not isinstance(items, list | tuple) or not items or not isinstance(items[0], Tensor):
                raise ModelError(
                    f"Block {path} returns a {type(output).__name__} where delayer needs a tensor, or a tuple whose "
                    f"first item is one. {BY_HAND}"
                )
            visit = next(visit for visit in reversed(visits) if visit.path == path)
            visit.after, visit.after_version = items[0], items[0]._version
            visit.returns = 0 if isinstance(output, Tensor) else len(output)

        return hook

    try:
        for path in paths:
            module = model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(path)))
        with ready(model, example) as inputs:
            call(model, inputs)
    except DelayerError:
        raise
    except Exception as error:  # whatever a network raises on data that it was not made for
        raise does_not_run(model, example, error) from error
    finally:
        for handle in handles:
            handle.remove()
    order = [visit.path for visit in visits]
    for path in paths:
        if order.count(path) != 1:
            raise ModelError(
                f"Block {path} ran {order.count(path)} times in one forward pass where delayer needs exactly one; a "
                f"block that is used in several places cannot be cut at one of them. {BY_HAND}"
            )
    return visits


def blocks_from(model: nn.Module, visits: list[Visit], axis: int) -> tuple[Block, ...]:
    """Number the points and write down the blocks."""
    blocks, point = [], -1
    for last, visit in zip([None, *visits], visits, strict=False):
        before, after = tuple(visit.before.shape), tuple(visit.after.shape)
        inlet = point if last is not None and last.hands_to(visit) else point + 1
        point = inlet + 1
        blocks.append(Block(
            path=visit.path, kind=type(model.get_submodule(visit.path)).__name__, inlet=inlet, outlet=point,
            in_width=_width(before, axis), out_width=_width(after, axis),
            positions=prod(before[1:]) // max(_width(before, axis), 1),
            removable=before == after, returns=visit.returns,
        ))  # fmt: skip
    return tuple(blocks)


def _width(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if -len(shape) <= axis < len(shape) else shape[-1]


def does_not_run(model: nn.Module, example: Inputs, error: Exception) -> ModelError:
    """What to say when a network's forward pass fails."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ModelError(
        f"{type(model).__name__} does not run on {_described(example)}: {reason}. Check the data's size and kind."
    )


def _described(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return f"a tensor {list(inputs.shape)}"
    return ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
