"""A search space: named choices, the string that states them, and the network that they make."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

from torch import nn

from delayer.errors import NasError, UnknownName
from delayer.store.given import give, given, is_name


class Space(ABC):
    """A search space is a small declaration: its choices and six methods. A candidate is a string in one fixed spelling.

    choices: the allowed values of each named choice. The three methods that draw follow from them.
    """

    choices: Mapping[str, tuple[Any, ...]]

    @abstractmethod
    def encode(self, chosen: Mapping[str, Any]) -> str:
        """The candidate that makes these choices."""

    @abstractmethod
    def decode(self, candidate: str) -> dict[str, Any]:
        """The choices of a candidate. Raises NasError naming what is unknown and what is allowed."""

    def canonical(self, candidate: str) -> str:
        """A key that candidates share when they compute the same."""
        return candidate

    def is_dead(self, candidate: str) -> bool:
        """Whether no path leads from input to output."""
        return False

    @abstractmethod
    def build(self, candidate: str, *, in_channels: int, num_classes: int) -> nn.Module:
        """The network, untrained."""

    @abstractmethod
    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The modules of such a network whose outputs are compared for redundancy."""

    def draw(self, rng: Random) -> str:
        """A candidate with every choice made uniformly."""
        return self.encode({name: rng.choice(values) for name, values in self.choices.items()})

    def mutate(self, candidate: str, rng: Random) -> str:
        """The candidate with exactly one choice changed to another value."""
        chosen = self.decode(candidate)
        name = rng.choice([name for name, values in self.choices.items() if len(values) > 1])
        return self.encode(chosen | {name: rng.choice([v for v in self.choices[name] if v != chosen[name]])})

    def every(self) -> Iterator[str]:
        """All candidates, in a fixed order."""
        for values in product(*self.choices.values()):
            yield self.encode(dict(zip(self.choices, values, strict=True)))


def named(name: str, what: str, called: str) -> Callable[..., Any]:
    """The function `package.module:factory` that the user typed, imported. Raises NasError when there is no such thing.

    what: the kind of function, called: how it is called; for the error.
    """
    try:
        return give(name)
    except UnknownName as error:
        reason = str(error).partition("(")[2].partition(").")[0]
        raise NasError(
            f"The {what} {name!r} cannot be found ({reason}). Name a function as package.module:factory, called as {called}."
        ) from error


def known(name: str, what: str, called: str) -> Callable[..., Any]:
    """The function of a name that stands in options, which may come from a file: never imported because it stands there.

    Raises NasError when the user did not give that name in this process.
    """
    found = given(name)
    if found is None and not is_name(name):
        return named(name, what, called)  # which says what a name looks like
    if found is None:
        raise NasError(
            f"The {what} {name[:200]!r} is a function of somebody's own, and a file's word is no reason to import "
            "it. If it is yours, give it: load_winner(FOLDER, own=...); trust=True imports whatever the file names."
        )
    return found


@dataclass(frozen=True)
class Seen:
    """What a strategy may know of a finished trial; never anything of test data."""

    slot: int
    candidate: str
    accuracy: float
    """By the cheap signal, %."""
    redundancy: float
    params: float
    dead: bool = False
