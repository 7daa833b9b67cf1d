"""The call of a torchvision constructor that builds a network of fewer blocks.

A builder such as `resnet50` has its depths written into it; the class behind it takes them: ResNet(block, layers=[3, 4, 6, 3]),
SwinTransformer(depths), VisionTransformer(num_layers), ConvNeXt(block_setting), EfficientNet(inverted_residual_setting). What
the builder calls its class with is overheard, and lowered one block at a time until a skeleton is what is left.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from functools import cached_property, partial
from types import FrameType
from typing import Any

import torch
from torch import nn

from delayer.libraries import first_line
from delayer.network.chain import Chain
from delayer.store.artefact import Source
from delayer.store.given import given
from delayer.store.shorter.likeness import difference
from delayer.store.shorter.lists import BlockList, NotOrdinary, lists_of
from delayer.store.shorter.places import Spot
from delayer.store.shorter.torchvision_program import is_record

COUNTS, DEPTHS = re.compile(r"(num_)?(layers|depths?|blocks)", re.I), re.compile(r"layer|depth|block|setting|num", re.I)
"""Names of counts, which are looked at first, and of what may hold some."""


def is_torchvision(model: nn.Module) -> bool:
    """Whether a network is of a class of torchvision's own."""
    return type(model).__module__.startswith("torchvision.models.")


class Constructions:
    """The calls that build the shorter networks that a network can be cut to; what its maker calls is overheard once.

    Raises NotOrdinary where the call that was overheard does not build the network.
    """

    def __init__(self, chain: Chain, source: Source):
        self.chain, self.kind = chain, type(chain.model)
        make = given(source.name)
        if make is None:
            raise NotOrdinary(f"nothing says how {source.name} calls {self.kind.__name__}")
        self.whole, self._put = overheard(self.kind, partial(make, **source.config))
        built = self.build(self.whole)
        if isinstance(built, str):
            raise NotOrdinary(f"{self.kind.__name__} cannot be called again ({built})")
        if reason := difference(chain.model, built, lists_of(chain, ())):
            raise NotOrdinary(f"{source.name} changes what {self.kind.__name__} builds: {reason}")
        self._lowered: dict[str, list[Spot]] = {}

    @cached_property
    def settled(self) -> dict[str, Any]:
        """The call with what the constructor itself puts where it was given nothing, such as the settings of MobileNetV2."""
        return self.whole | {name: value for name, value in self._put.items() if self.whole.get(name) is None}

    def build(self, arguments: Mapping[str, Any]) -> nn.Module | str:
        """A skeleton without memory, or what the constructor says against it."""
        try:
            try:
                with torch.device("meta"):
                    return self.kind(**deepcopy(dict(arguments))).eval()
            except (NotImplementedError, RuntimeError):  # some look at numbers, which meta has none of
                return self.kind(**deepcopy(dict(arguments))).eval()
        except Exception as error:  # whatever a constructor raises
            return first_line(error)

    def without(self, lists: Sequence[BlockList]) -> dict[str, Any]:
        """The arguments of what is left, found block by block. Raises NotOrdinary."""
        try:
            return self._without(self.whole, lists)
        except NotOrdinary:
            if self.settled == self.whole:
                raise
            return self._without(self.settled, lists)

    def _without(self, arguments: dict[str, Any], lists: Sequence[BlockList]) -> dict[str, Any]:
        step = [BlockList(one.path, one.names, frozenset()) for one in lists]
        for number, one in enumerate(lists):
            for name in sorted(one.gone, key=one.names.index, reverse=True):
                step[number] = BlockList(one.path, one.names, step[number].gone | {name})
                arguments = self._one_less(arguments, step, one.path, one.at(name))
        return arguments

    def _one_less(self, arguments: dict[str, Any], lists: Sequence[BlockList], path: str, gone: str) -> dict[str, Any]:
        known = self._lowered.setdefault(path, [])
        reasons = []
        for spot, fewer in sorted(_lowered(arguments), key=lambda found: (found[0] not in known, _rank(found[0]))):
            built = self.build(fewer)
            if isinstance(built, str):
                continue
            if not (reason := difference(self.chain.model, built, lists)):
                known.append(spot)
                return fewer
            reasons.append(reason)
        nearer = [reason for reason in reasons if " blocks then where " not in reason]
        why = f": {(nearer or reasons)[0]}" if reasons else ""
        raise NotOrdinary(f"no argument of torchvision's {self.kind.__name__} takes {gone} alone out of it{why}")


def overheard(kind: type[nn.Module], make: Callable[[], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments, by name, with which a maker calls a class; and what the constructor made of them.

    Raises NotOrdinary where the maker does not call it once, or fails.
    """
    calls: list[dict[str, Any]] = []
    put: dict[str, Any] = {}
    whole = kind.__init__
    signature = inspect.signature(whole)

    def init(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        if type(self) is kind:
            bound = signature.bind(self, *args, **kwargs).arguments
            more = {name for name, one in signature.parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD}
            named = {name: value for name, value in bound.items() if name not in more}
            named |= {key: value for name in more for key, value in bound.get(name, {}).items()}
            calls.append(deepcopy({name: value for name, value in named.items() if value is not self}))
            before = sys.getprofile()
            sys.setprofile(listen)
            try:
                return whole(self, *args, **kwargs)
            finally:
                sys.setprofile(before)
        return whole(self, *args, **kwargs)

    def listen(frame: FrameType, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is whole.__code__:
            values = {name: frame.f_locals.get(name) for name in signature.parameters}
            put.update({name: deepcopy(value) for name, value in values.items() if value is not None and name != "self"})

    init.__signature__ = signature
    try:
        kind.__init__ = init
        try:
            with torch.device("meta"):
                make()
        except Exception:  # it looks at numbers, or loads weights, of which there are none on meta
            calls.clear()
            make()
    except Exception as error:
        raise NotOrdinary(f"its maker cannot be called again ({first_line(error)})") from error
    finally:
        kind.__init__ = whole
    if len(calls) != 1:
        raise NotOrdinary(f"its maker calls {kind.__name__} {len(calls)} times")
    return calls[0], put


def _rank(spot: Spot) -> int:
    """0 for what is called as a count is, 1 for what is inside a setting of blocks, 2 for the rest."""
    names = [key for key in spot if isinstance(key, str) and not key.startswith("#")]
    return 0 if COUNTS.fullmatch(names[-1]) else 1 if any(map(DEPTHS.search, names)) else 2


def _lowered(arguments: dict[str, Any]) -> Iterator[tuple[Spot, dict[str, Any]]]:
    """Each way to take one from a number above 1, or an entry from a list; and where that is."""
    for spot, value in _values(arguments):
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield spot, _with(arguments, spot, value - 1)
        elif isinstance(value, list | tuple) and len(value) > 1:
            for k in range(len(value)):
                yield (*spot, f"#{k}"), _with(arguments, spot, type(value)([*value[:k], *value[k + 1 :]]))


def _values(value: Any, spot: Spot = ()) -> Iterator[tuple[Spot, Any]]:
    """Everything inside arguments, with its place: of mappings, sequences and records (objects of torchvision's)."""
    yield spot, value
    inside: Any = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    elif is_record(value):
        inside = vars(value).items()
    for key, item in inside:
        yield from _values(item, (*spot, key))


def _with(value: Any, spot: Spot, new: Any) -> Any:
    """A copy with something else at a place."""
    if not spot:
        return new
    key, rest = spot[0], spot[1:]
    if isinstance(value, Mapping):
        return {**value, key: _with(value[key], rest, new)}
    if isinstance(value, list | tuple):
        return type(value)(_with(item, rest, new) if k == key else item for k, item in enumerate(value))
    changed = copy(value)
    vars(changed)[key] = _with(vars(value)[key], rest, new)
    return changed
