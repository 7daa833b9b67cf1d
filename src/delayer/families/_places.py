"""Where a block's hidden state comes in and goes out, and which of its other outputs are arguments handed on as they came."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from delayer.errors import ModelError
from delayer.network.blocks import AGAIN
from delayer.network.handing import Items

PLAIN = (bool, int, float, str)


@dataclass(eq=False)
class Visit:
    """One run of one block.

    given: its arguments by place. versions: of the tensors among them, when it began. answer: taken apart; left: the versions
    of the tensors in it, when it ended. carried: for each item of the answer, the places of arguments that it is, unchanged.
    takes, gives: the places of the hidden state.
    """

    path: str
    kind: type
    given: dict[str, Any]
    versions: dict[str, int]
    answer: Items = field(default_factory=lambda: Items("tuple", {}))
    left: dict[str, int] = field(default_factory=dict)
    carried: dict[str, list[str]] = field(default_factory=dict)
    takes: str = ""
    gives: str = ""

    @property
    def before(self) -> Tensor:
        return self.given[self.takes]

    @property
    def after(self) -> Tensor:
        return self.answer.items[self.gives]

    def end(self, answer: Items) -> None:
        """Note what it answered, and what of that it was given."""
        self.answer, self.left = answer, versions_of(answer.items)
        untouched = {
            place: value
            for place, value in self.given.items()
            if not isinstance(value, Tensor) or version_of(value) == self.versions[place]
        }
        for item, value in answer.items.items():
            if value is not None:
                very = [place for place, given in untouched.items() if _same(value, given)]
                self.carried[item] = very or [place for place, given in untouched.items() if equal(value, given)]

    def hands_to(self, other: "Visit") -> bool:
        """The other block gets the very tensor that this one gave, unchanged in place on the way."""
        return _same(self.after, other.before) and self.left[self.gives] == other.versions[other.takes]


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def versions_of(values: Mapping[str, Any]) -> dict[str, int]:
    return {place: version_of(value) for place, value in values.items() if isinstance(value, Tensor)}


def hidden_states(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """What may be a hidden state: tensors of numbers with a dimension for samples and one for features."""
    return {
        place: value
        for place, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1
    }


def _same(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other and not isinstance(one, PLAIN)
    return one is other or (
        not one.is_nested
        and not other.is_nested
        and one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )


def equal(one: Any, other: Any) -> bool:
    """The same numbers, or the same plain value or list of them."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
        return alike and not one.is_nested and torch.equal(one, other)
    if isinstance(one, tuple | list) and type(one) is type(other) and len(one) == len(other) > 0:  # such as sizes of a picture
        return all(equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
    return isinstance(one, PLAIN) and type(one) is type(other) and one == other


def settle_(visits: list[Visit]) -> None:
    """Decide where every block's hidden state is: it is the tensor that one block makes and hands to the next.

    Blocks of one class agree by majority, so that a planted identity or the first block, which gets its input from elsewhere,
    are read as the others are. Where the network works between all blocks, it is the first argument that has the shape of
    the answer and is not the same in every block, as a condition or an embedding of positions is.
    """
    takes: dict[type, Counter] = defaultdict(Counter)
    gives: dict[type, Counter] = defaultdict(Counter)
    runs = Counter(visit.kind for visit in visits)
    handed_on = Counter((visit.kind, item) for visit in visits for item, places in visit.carried.items() if places)
    carried = {each for each, count in handed_on.items() if 2 * count > runs[each[0]]}
    for one, two in pairwise(visits):
        pairs = [
            (out, place)
            for out, made in hidden_states(one.answer.items).items()
            for place, got in hidden_states(two.given).items()
            if _same(made, got) and one.left[out] == two.versions[place]
        ]
        for out, place in [pair for pair in pairs if (one.kind, pair[0]) not in carried] or pairs:
            weight = 2 if one.kind is two.kind else 1
            gives[one.kind][out] += weight
            takes[two.kind][place] += weight
    for visit in visits:
        outs = hidden_states(visit.answer.items)
        visit.gives = _chosen(gives, visit.kind, outs) or next(iter(outs))
        visit.takes = _chosen(takes, visit.kind, hidden_states(visit.given)) or _likely(visit, visits)


def _chosen(votes: Mapping[type, Counter], kind: type, there: Iterable[str]) -> str:
    everywhere = sum(votes.values(), Counter())
    return next((place for count in (votes[kind], everywhere) for place, _ in count.most_common() if place in there), "")


def _likely(visit: Visit, visits: list[Visit]) -> str:
    found = hidden_states(visit.given)
    if not found:
        raise ModelError(
            f"Block {visit.path} was called without a tensor of numbers, so its input cannot be watched. "
            "Choose other blocks: chain_of(model, example, blocks='REGULAR EXPRESSION')."
        )
    own = {
        place: value
        for place, value in found.items()
        if len(visits) == 1 or not all(_same(value, other.given.get(place)) for other in visits)
    } or found
    fits = [place for place, value in own.items() if value.shape == visit.after.shape] or list(own)
    return "hidden_states" if "hidden_states" in fits else fits[0]


def passes_of(visits: list[Visit]) -> dict[str, tuple[str, ...]]:
    """For each block and each item of its answer the place of the argument that it is, `AGAIN`, or "" for neither.

    Where several would do (a planted identity returns its input), the one that does in most blocks of the class.
    """
    candidates = {visit.path: {item: _candidates(visit, item) for item in visit.answer.items} for visit in visits}
    votes: Counter = Counter(
        (visit.kind, item, place) for visit in visits for item, places in candidates[visit.path].items() for place in places
    )
    found = {}
    for visit in visits:
        used: list[str] = []
        for item, places in candidates[visit.path].items():
            used.append(
                max(
                    places,
                    default="",
                    key=lambda place: (votes[visit.kind, item, place], place.rpartition(".")[2] == item, place not in used),
                )
            )
        found[visit.path] = tuple(used) if any(used) else ()
    return found


def _candidates(visit: Visit, item: str) -> list[str]:
    value = visit.answer.items[item]
    if item == visit.gives or value is None:
        return []
    again = isinstance(value, Tensor) and (_same(value, visit.after) or equal(value, visit.after))
    return [*visit.carried.get(item, ()), *[AGAIN] * again]
