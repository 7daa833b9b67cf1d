"""The layers that write into the hidden state, found by running the network and proven by scaling them.

In a pre-norm network a hidden state is a sum: what the embeddings begin it with, and what each block adds. Where all of them add
α times as much, the state is α times as large and nothing else changes, since every reader normalises first.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from delayer.errors import ModelError
from delayer.network.calling import Inputs, call, each_tensor, evaluating, hidden_in, hidden_out, output_of, unfused
from delayer.network.chain import Chain
from delayer.network.hooks import After, Before, hooked
from delayer.network.inside_block import ADDITIONS

TOLERANCE = 0.05
"""Relative error, Frobenius, that the small constants of norms may bring where all is scaled by two."""


@dataclass(frozen=True)
class Writers:
    """Who writes into the hidden state.

    begins: paths of the embeddings. adds: paths, inside each block, of the layers whose answers are added. undo: paths of the
    norms behind the last block, before a head that shares weights with the embeddings and so would be scaled as well.
    """

    begins: tuple[str, ...]
    adds: tuple[str, ...]
    undo: tuple[str, ...] = ()


def writers_of(chain: Chain, inputs: Inputs) -> Writers:
    """The layers that write into the hidden state of a pre-norm network; its weights are as they were afterwards.

    Proven by doubling them: every state must double and the answer stay. Raises ModelError where that is not so.
    """
    there = next((p.device for p in chain.model.parameters()), torch.device("cpu"))
    inputs, watch = each_tensor(lambda x: x.to(there), inputs), _Watch(chain)
    with evaluating(chain.model), watch.watching():
        call(chain.model, inputs)
    found = watch.writers()
    if found is not None and _is_proven(chain, found, inputs):
        return found
    raise ModelError(
        f"{type(chain.model).__name__} does not begin its hidden state with embeddings alone and add to it in every block what "
        "linear layers answer, read behind a norm, so its size cannot be changed by scaling weights."
    )


def scale_(modules: Iterable[nn.Module], factor: float) -> None:
    """Weights and biases of modules become `factor` times as large, shared ones once."""
    tensors = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.mul_(factor)


def writing(chain: Chain, found: Writers, before: int) -> list[nn.Module]:
    """The modules that write into the hidden state before a block."""
    modules = [chain.model.get_submodule(path) for path in found.begins]
    return modules + [chain.module(index).get_submodule(path) for index in range(before) for path in found.adds]


def _is_proven(chain: Chain, found: Writers, inputs: Inputs) -> bool:
    """Whether every state doubles, and the answer stays, where all that writes does so twice as much."""
    states, answer = _states(chain, inputs)
    modules = writing(chain, found, chain.num_blocks)
    undo = [chain.model.get_submodule(path) for path in found.undo]
    scale_(modules, 2.0)
    scale_(undo, 0.5)
    try:
        doubled, same = _states(chain, inputs)
    finally:  # powers of two come back to the bit
        scale_(undo, 2.0)
        scale_(modules, 0.5)
    pairs = [(states[k], doubled[k] / 2) for k in states] + [(answer, same)]
    return len(states) == len(doubled) == chain.num_blocks and all(map(_near, *zip(*pairs, strict=True)))


def _near(one: Tensor, two: Tensor) -> bool:
    return bool((one - two).double().norm() <= TOLERANCE * one.double().norm())


def _states(chain: Chain, inputs: Inputs) -> tuple[dict[int, Tensor], Tensor]:
    """The state behind each block, and the answer."""
    seen: dict[int, Tensor] = {}

    def note(index: int) -> After:
        gives = chain.blocks[index].gives
        return lambda module, args, output: seen.__setitem__(index, hidden_out(output, gives).clone())

    after = [(chain.module(index), note(index)) for index in range(chain.num_blocks)]
    with evaluating(chain.model), hooked(after=after), unfused():
        return seen, output_of(call(chain.model, inputs))


class _Watch:
    """Notes, in one forward pass, which layers' answers are added inside blocks, and what runs before and behind all blocks."""

    def __init__(self, chain: Chain):
        self.chain, self.inside, self.shape, self.passed = chain, -1, torch.Size(), 0
        self.answers: list[tuple[str, Tensor]] = []
        self.adds: dict[int, dict[str, None]] = {}
        self.begins: dict[str, None] = {}
        self.behind: dict[str, None] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, a forward pass is watched."""
        chain, width = self.chain, self.chain.blocks[0].in_width
        blocks = [block.path for block in chain.blocks]
        before: list[tuple[nn.Module, Before]] = []
        after: list[tuple[nn.Module, After]] = []
        for index in range(chain.num_blocks):
            block = chain.module(index)
            after += [(m, self._answered(inner)) for inner, m in block.named_modules() if inner and len(_weight_shape(m)) == 2]
            before.append((block, self._entered(index)))
            after.append((block, self._left(index)))
        for path, module in chain.model.named_modules():
            if not any(path == block or path.startswith(f"{block}.") for block in blocks):
                if isinstance(module, nn.Embedding) and module.embedding_dim == width:
                    after.append((module, self._ran(path, self.begins, lambda: not self.passed and self.inside < 0)))
                elif _weight_shape(module) == (width,):
                    after.append((module, self._ran(path, self.behind, lambda: self.passed == chain.num_blocks)))
        with hooked(before=before, after=after), _Sums(self), unfused():
            yield

    def _entered(self, index: int) -> Callable:
        def note(module, args, kwargs):
            self.inside, self.answers = index, []
            self.shape = hidden_in(args, kwargs, self.chain.blocks[index].takes).shape

        return note

    def _left(self, index: int) -> After:
        def note(module, args, output):
            self.inside, self.passed = -1, self.passed + 1

        return note

    def _answered(self, path: str) -> After:
        return lambda module, args, output: self.answers.append((path, output)) if isinstance(output, Tensor) else None

    def _ran(self, path: str, places: dict[str, None], counts: Callable[[], bool]) -> After:
        return lambda module, args, output: places.setdefault(path, None) if counts() else None

    def added(self, *terms: Tensor) -> None:
        """Hear of a sum inside a block; one of another shape than the hidden state's is none of it."""
        for term in terms if terms[0].shape == self.shape else ():
            for path, answer in self.answers:
                if term is answer or (term.data_ptr() == answer.data_ptr() and term.shape == answer.shape):
                    self.adds.setdefault(self.inside, {})[path] = None

    def writers(self) -> Writers | None:
        """Who writes, where all blocks have the same layers for it and share none; None otherwise."""
        chain = self.chain
        kinds = {tuple(sorted(self.adds.get(index, {}))) for index in range(chain.num_blocks)}
        if len(kinds) != 1 or not self.begins or not (adds := next(iter(kinds))):
            return None
        layers = [chain.module(index).get_submodule(path) for index in range(chain.num_blocks) for path in adds]
        begins = [chain.model.get_submodule(path) for path in self.begins]
        owned = [id(p) for module in [*layers, *begins] for p in module.parameters(recurse=False)]
        others = [
            m for path, m in chain.model.named_modules(remove_duplicate=False) if not any(m is one for one in [*layers, *begins])
        ]
        shared = {id(p) for module in others for p in module.parameters(recurse=False)} & set(owned)
        if len(set(owned)) < len(owned) or (shared and not self.behind):
            return None
        return Writers(tuple(self.begins), adds, tuple(self.behind)[:1] if shared else ())


class _Sums(TorchFunctionMode):
    """Tells a watch of sums of two tensors of one shape."""

    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in ADDITIONS and len(args) == 2 and self.watch.inside >= 0:
            one, two = args
            if isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape == two.shape:
                self.watch.added(one, two)
        return func(*args, **(kwargs or {}))


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of a module's own weight; () where it has none."""
    weight = module._parameters.get("weight")
    return () if weight is None else tuple(weight.shape)
