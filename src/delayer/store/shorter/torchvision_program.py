"""A program that opens a cut network's weights with a torchvision constructor, and nothing of delayer."""

from collections.abc import Mapping
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import nn

from delayer.store.shorter.lists import NotOrdinary

PROGRAM = "open_with_torchvision.py"


def is_record(value: Any) -> bool:
    """Whether a value is an object of torchvision's that only holds values, such as the setting of a block."""
    return type(value).__module__.startswith("torchvision.") and hasattr(value, "__dict__") and not callable(value)


def program(kind: type[nn.Module], arguments: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A program whose `model()` opens the weights beside it with torchvision alone. Raises NotOrdinary.

    names: for each tensor of the saved weights its name in what the constructor builds.
    """
    spelled = _Spelling()
    call = (
        f"{spelled.of(kind)}(\n" + "".join(f"        {key}={spelled.of(value)},\n" for key, value in arguments.items()) + "    )"
    )
    other = {old: new for old, new in names.items() if old != new}
    rename = (
        f"    names = {other!r}\n    weights = {{names.get(key, key): value for key, value in weights.items()}}\n"
        if other
        else ""
    )
    made = RECORD if spelled.records else ""
    return HEAD.format(
        imports="".join(f"import {name}\n" for name in sorted(spelled.modules)), made=made, call=call, rename=rename
    )


HEAD = '''"""The cut network, opened by torchvision alone: `from open_with_torchvision import model`."""

from pathlib import Path

{imports}
from safetensors.torch import load_file

{made}
def model():
    """The network with its weights, in evaluation mode."""
    network = {call}
    weights = load_file(Path(__file__).parent / "model.safetensors")
{rename}    network.load_state_dict(weights, strict=True)
    return network.eval()
'''
RECORD = '''
def record(kind, **values):
    """A setting of one stage or block, with these values."""
    made = object.__new__(kind)
    vars(made).update(values)
    return made

'''


class _Spelling:
    """Arguments as Python, and what that has to import."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.records = False

    def of(self, value: Any) -> str:
        if value is None or isinstance(value, bool | int | float | str):
            return repr(value)
        if isinstance(value, list):
            return f"[{', '.join(map(self.of, value))}]"
        if isinstance(value, tuple):
            return f"({''.join(self.of(item) + ', ' for item in value)})"
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'{self.of(key)}: {self.of(item)}' for key, item in value.items())}}}"
        if isinstance(value, partial):
            self.modules.add("functools")
            parts = [self.of(value.func), *map(self.of, value.args), *(f"{k}={self.of(v)}" for k, v in value.keywords.items())]
            return f"functools.partial({', '.join(parts)})"
        if isinstance(value, type | FunctionType | BuiltinFunctionType) and "<" not in value.__qualname__:
            self.modules.add(value.__module__)
            return f"{value.__module__}.{value.__qualname__}"
        if is_record(value):
            self.records = True
            return f"record({', '.join([self.of(type(value)), *(f'{k}={self.of(v)}' for k, v in vars(value).items())])})"
        raise NotOrdinary(f"a {type(value).__name__} among its constructor's arguments cannot be written down")
