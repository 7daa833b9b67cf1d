"""What is handed to a block and what it hands on, by the names of the places.

A place in a call is "0", "1", .. for an argument by position, or the argument's name; a place in an answer is "0", "1", ..
for an item of a tuple or list, or a key. "0.1" and "batch.x" lie one level deeper, in a container.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple

from torch import Tensor

from delayer.errors import ModelError

Form = Literal["tensor", "tuple", "list", "dict", "named tuple", "record"]
"""What an answer is: a "record" has its items as attributes, be it a dataclass or a library's own kind of output."""


class Items(NamedTuple):
    """An answer taken apart: what it is, and its items by place."""

    form: Form
    items: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The items' names; none where they are numbered."""
        return () if self.form in ("tensor", "tuple", "list") else tuple(self.items)


class Answer(dict):
    """A record as a stand-in gives it: items by attribute, by key, and by number, which counts those that are not None."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __getitem__(self, key: Any) -> Any:
        return self.to_tuple()[key] if isinstance(key, int | slice) else super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Its values without those that are None, as transformers' own do."""
        return tuple(value for value in self.values() if value is not None)


def apart(value: Any) -> Items | None:
    """A value taken apart; None for what is neither a tensor nor a container."""
    if isinstance(value, Tensor):
        return Items("tensor", {"": value})
    if isinstance(value, tuple) and (names := getattr(value, "_fields", None)):
        return Items("named tuple", dict(zip(names, value, strict=True)))
    if isinstance(value, tuple | list):
        return Items("tuple" if isinstance(value, tuple) else "list", {str(k): item for k, item in enumerate(value)})
    if isinstance(value, Answer):
        return Items("record", dict(value))
    if is_dataclass(value) and not isinstance(value, type):
        return Items("record", {field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return Items("dict", dict(value))
    return None


def items_of(value: Any) -> Items:
    """A value taken apart. Raises ModelError for what is neither a tensor nor a container."""
    found = apart(value)
    if found is None:
        raise ModelError(
            f"A block answered with a {type(value).__name__} where delayer needs a tensor, or a tuple, dict or record that has "
            "one as an item. Choose other blocks: chain_of(model, example, blocks='REGULAR EXPRESSION')."
        )
    return found


def together(form: Form, items: dict[str, Any]) -> Any:
    """An answer of a form from its items; the inverse of `apart`, but for the names of classes."""
    if form == "tensor":
        return items[""]
    if form == "named tuple":
        return namedtuple("Answer", list(items))(**items)
    kinds: dict[str, Callable[[dict], Any]] = {
        "tuple": lambda d: tuple(d.values()),
        "list": lambda d: list(d.values()),
        "dict": dict,
        "record": Answer,
    }
    return kinds[form](items)


def arguments(args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of a call by place, and after it the items of those that are containers."""
    found: dict[str, Any] = {}
    for place, value in (*((str(k), value) for k, value in enumerate(args)), *kwargs.items()):
        found[place] = value
        inner = apart(value)
        if inner is not None and inner.form != "tensor":
            found |= {f"{place}.{name}": item for name, item in inner.items.items()}
    return found


def argument(place: str, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """What a call hands over at a place; None where there is nothing."""
    head, _, name = place.partition(".")
    value = (args[int(head)] if int(head) < len(args) else None) if head.isdigit() else kwargs.get(head)
    inner = apart(value) if name else None
    return value if not name else inner.items.get(name) if inner else None


def each_item(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same answer with `change` done to each tensor in it, however deep."""
    if isinstance(value, Tensor):
        return change(value)
    if (inner := apart(value)) is None:
        return value
    items = {name: each_item(item, change) for name, item in inner.items.items()}
    if inner.form in ("tuple", "list"):
        return type(value)(list(items.values())) if type(value) in (tuple, list) else value
    if is_dataclass(value) and not isinstance(value, type | Mapping):
        return replace(value, **items)
    return type(value)(**items)
