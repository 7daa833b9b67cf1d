"""How large a network a file may describe: no larger than its weights and its plan account for, found out before it is built."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch.nn.modules import module as hooks

from delayer.errors import ModelError

MOST = {"labels": 1_000_000, "layers": 10_000}
"""More labels, and more layers, heads or experts, than any network has: such a number is damage."""
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor of a weights file."""
_NAMES = {
    "layers": re.compile(r"(n|num)(_\w+)?_(layers?|blocks?|heads?|experts?|stages?)|depths?|layers"),
    "labels": re.compile(r"num_(labels|classes)"),
}


def check_counts(config: Mapping[str, Any], where: str, shapes: Shapes | None = None) -> None:
    """Raises ModelError for a configuration that counts more layers, heads or labels than any network has.

    shapes: of its weights file, where that is known: 10,000 labels, or as many as any tensor has rows, are believed then.
    """
    mosts = (
        MOST if shapes is None else MOST | {"labels": max(10_000, *(size for _, shape in shapes.values() for size in shape), 0)}
    )
    todo: list[tuple[str, Any]] = list(config.items())
    while todo:
        key, value = todo.pop()
        if isinstance(value, Mapping):
            todo += value.items()
        elif isinstance(value, list | tuple):
            todo += [(key, inner) for inner in value]
        elif isinstance(value, int | float) and value is not True:
            most = next((mosts[what] for what, names in _NAMES.items() if names.fullmatch(str(key))), None)
            if most and value > most:
                raise ModelError(
                    f"{where} asks for {value:.0f} {key}, where {most:,} is the most that is believed. "
                    "Bring the saved files back."
                )


@contextmanager
def no_larger_than(shapes: Shapes, num_blocks: int, where: str) -> Iterator[None]:
    """Inside, a network may be built whose tensors a weights file accounts for, and once more each block that a plan took out.

    shapes: of that file. Raises ModelError, in the middle of building, from there on.
    """
    most_tensors = 2000 + len(shapes) * (num_blocks + 4)
    most_elements = 10_000_000 + sum(prod(shape) for _, shape in shapes.values()) * (num_blocks + 4)
    seen = {"modules and tensors": 0, "elements": 0}

    def count(module: Any, name: str, item: Any) -> None:
        seen["modules and tensors"] += 1
        seen["elements"] += item.numel() if isinstance(item, torch.Tensor) else 0
        for what, most in (("modules and tensors", 8 * most_tensors), ("elements", most_elements)):
            if seen[what] > most:
                raise ModelError(
                    f"{where} describes a network of more than {most:,} {what}, while its weights file holds "
                    f"{len(shapes)} tensors. One of the two is damaged, or of another network."
                )

    with ExitStack() as stack:
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
            hooks.register_module_module_registration_hook,
        ):
            stack.callback(register(count).remove)
        yield


def check_size(build: Callable[[], Any], shapes: Shapes, num_blocks: int, where: str) -> None:
    """Raises ModelError where a network is larger than its weights file accounts for, before any memory is taken for it.

    build: makes the network; whatever else it raises on a device without memory, the true building says better.
    """
    try:
        with no_larger_than(shapes, num_blocks, where), torch.device("meta"):
            build()
    except ModelError as error:
        if error.__cause__ is None:  # a refusal of ours, and not what a library's constructor raised
            raise
    except Exception:  # noqa: S110  not every network can be built without memory
        pass
