"""What one forward pass tells about the blocks of a network."""

from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor, nn

from delayer.errors import DelayerError, ModelError
from delayer.families._places import Visit, hidden_states, passes_of, settle_, versions_of
from delayer.network.blocks import Block
from delayer.network.calling import Inputs, call, ready, seeded, unfused
from delayer.network.handing import apart, arguments
from delayer.network.hooks import hooked

BY_HAND = "Describe the blocks by hand: --blocks PATTERN, or chain_of(model, example, blocks='REGULAR EXPRESSION')."


def probe(model: nn.Module, paths: list[str], example: Inputs) -> list[Visit]:
    """The blocks in the order in which they run, with what they got and gave.

    Raises ModelError when a block does not run exactly once, gives no tensor, or when the forward pass fails.
    """
    visits: list[Visit] = []

    def enter(path):
        def hook(module, args, kwargs):
            given = arguments(args, kwargs)
            visits.append(Visit(path, type(module), given, versions_of(given)))

        return hook

    def leave(path):
        def hook(module, args, output):
            answer = apart(output)
            if answer is None or not hidden_states(answer.items):
                raise ModelError(
                    f"Block {path} returns a {type(output).__name__} where delayer needs a tensor [samples, ..], or a tuple, "
                    f"dict or record that has one as an item. {BY_HAND}"
                )
            next(visit for visit in reversed(visits) if visit.path == path).end(answer)

        return hook

    blocks = [(model.get_submodule(path), path) for path in paths]
    watching = hooked(before=[(m, enter(path)) for m, path in blocks], after=[(m, leave(path)) for m, path in blocks])
    try:
        with watching, ready(model, example) as inputs, seeded(), unfused():
            call(model, inputs)
    except DelayerError:
        raise
    except Exception as error:  # whatever a network raises on data that it was not made for
        raise does_not_run(model, example, error) from error
    order = [visit.path for visit in visits]
    for path in paths:
        if order.count(path) != 1:
            raise ModelError(
                f"Block {path} ran {order.count(path)} times in one forward pass where delayer needs exactly one; a "
                f"block that is used in several places cannot be cut at one of them. {BY_HAND}"
            )
    settle_(visits)
    return visits


def blocks_from(visits: list[Visit], axis: int, samples: Mapping[str, int], num_samples: int) -> tuple[Block, ...]:
    """Number the points and write down the blocks.

    axis: of features. samples: for each block the axis of the batch, which held num_samples.
    """
    blocks, point, passes = [], -1, passes_of(visits)
    for last, visit in zip([None, *visits], visits, strict=False):
        before, after = tuple(visit.before.shape), tuple(visit.after.shape)
        inlet = point if last is not None and last.hands_to(visit) else point + 1
        point = inlet + 1
        form, items = visit.answer
        blocks.append(
            Block(
                path=visit.path,
                kind=visit.kind.__name__,
                inlet=inlet,
                outlet=point,
                in_width=_width(before, axis),
                out_width=_width(after, axis),
                positions=prod(before) // max(_width(before, axis) * num_samples, 1),
                removable=before == after,
                returns=0 if form == "tensor" else len(items),
                form="tuple" if form == "tensor" else form,
                names=visit.answer.names,
                hidden=list(items).index(visit.gives),
                takes=visit.takes,
                passes=passes[visit.path],
                samples=samples[visit.path],
            )
        )
    return tuple(blocks)


def _width(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if -len(shape) <= axis < len(shape) else shape[-1]


def does_not_run(model: nn.Module, example: Inputs, error: Exception) -> ModelError:
    """What to say when a network's forward pass fails."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return ModelError(f"{type(model).__name__} does not run on {_described(example)}: {reason}. Check the data's size and kind.")


def _described(inputs: Any) -> str:
    if isinstance(inputs, Tensor):
        return f"a tensor {list(inputs.shape)}"
    return ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
