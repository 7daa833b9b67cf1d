"""The linear layers inside a block, found by running it: which one answers last, and what is added to its answer.

A block is read as `tail(rest + norm(last(hidden)))`: `last` is a Linear or Conv2d, `norm` a batch norm or nothing, `rest`
the shortcut (nothing where there is none), and `tail` nothing or a ReLU. That a block is of this form is not taken from
its class: one forward pass is watched, and the numbers must agree.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from delayer.errors import ModelError
from delayer.network.calling import hidden_in, hidden_out, unfused
from delayer.network.hooks import After, hooked

Tail = Literal["identity", "relu"]
TAILS: dict[str, Callable[[Tensor], Tensor]] = {"identity": lambda z: z, "relu": torch.relu}
RELUS = {torch.relu, torch.relu_, F.relu, F.relu_, Tensor.relu, Tensor.relu_}
ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


@dataclass(eq=False)
class Layer:
    """A linear layer that ran in a block: its path there, what it read, and what it answered behind its batch norm.

    answer: the very tensor, into which the block may have written since. held: the numbers that it held; the answer itself where
    they were not asked for.
    """

    path: str
    read: Tensor
    answer: Tensor
    held: Tensor
    norm: str = ""


@dataclass(eq=False)
class Run:
    """What one forward pass of a block showed.

    before: its input. layers: in the order in which they ran. rest, total: the last addition that took a layer's answer,
    as rest + answer = total; without one, rest is None and total the last layer's answer. tail: from total to output.
    """

    before: Tensor
    layers: list[Layer] = field(default_factory=list)
    last: Layer | None = None
    rest: Tensor | None = None
    total: Tensor | None = None
    tail: Tail | None = None
    sum: Tensor | None = None  # the very tensor whose numbers `total` holds, for as long as nothing changes it in place
    rectified: bool = False

    @property
    def ending(self) -> tuple[Layer, Tensor]:
        """The layer that answered last, and the total. Raises ModelError where none ran."""
        if self.last is None or self.total is None:
            raise ModelError("The block ran no Linear or Conv2d, so there is no layer in it to re-solve. Choose another block.")
        return self.last, self.total

    def layer(self, path: str) -> Layer:
        """The layer of that path. Raises StopIteration where there is none."""
        return next(layer for layer in self.layers if layer.path == path)

    def rectifies(self, layer: Layer) -> bool:
        """Whether the layer that ran next read what this one said behind a ReLU."""
        following = self.layers[self.layers.index(layer) + 1 :]
        return bool(following) and torch.equal(following[0].read, layer.held.relu())


@dataclass(frozen=True)
class Form:
    """What is left of a run when its numbers are let go of.

    The paths of a block's linear layers in the order in which they ran, of the one that answers last and of its batch norm
    ("" where there is none), and the tail.
    """

    layers: tuple[str, ...]
    last: str
    norm: str
    tail: Tail | None


def form_of(run: Run) -> Form:
    """The form that one forward pass showed."""
    last, norm = (run.last.path, run.last.norm) if run.last else ("", "")
    return Form(tuple(layer.path for layer in run.layers), last, norm, run.tail)


class _Additions(TorchFunctionMode):
    """Notes additions that take a layer's answer, and whether a ReLU follows; terms as they were before a change in place."""

    def __init__(self, runs: list[Run]):
        super().__init__()
        self.runs = runs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        run = self.runs[-1] if self.runs else None
        terms = None
        if run is not None and func in RELUS and args and args[0] is run.sum:
            run.rectified = True
        if run is not None and func in ADDITIONS and len(args) == 2 and not kwargs:
            terms = _terms(run.layers, *args)
        out = func(*args, **(kwargs or {}))
        if run is not None and terms:
            run.last, run.rest = terms
            run.total, run.sum, run.rectified = out.clone(), out, False
        return out


def _terms(layers: list[Layer], a: Any, b: Any) -> tuple[Layer, Tensor] | None:
    """The layer whose answer is one of the two terms, and the other term; None when neither is."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape:
        return None
    for layer in reversed(layers):
        for answer, other in ((a, b), (b, a)):
            if answer is layer.answer or (answer.data_ptr() == layer.answer.data_ptr() and answer.shape == layer.answer.shape):
                return layer, other.clone()
    return None


@contextmanager
def running(
    block: nn.Module, see: Callable[[Run], None], *, takes: str = "", gives: str = "", answers: bool = True
) -> Iterator[None]:
    """Call `see` with what each forward pass of a block shows; hooks go away also after an exception.

    takes, gives: the places of the hidden state in its call and in its answer (`Block`). answers: whether the numbers of each
    layer's answer are kept, which takes a copy.
    Inside, the network must be evaluating: a batch norm in training mode is no fixed map.
    """
    with running_each([(block, see, takes, gives)], answers=answers):
        yield


@contextmanager
def running_each(watched: Sequence[tuple[nn.Module, Callable[[Run], None], str, str]], *, answers: bool = True) -> Iterator[None]:
    """The same for several blocks, none inside another: each with its `see`, `takes` and `gives`."""
    runs: list[Run] = []
    with ExitStack() as stack:
        for block, see, takes, gives in watched:
            stack.enter_context(_noting(block, runs, see, takes, gives, answers=answers))
        with _Additions(runs), unfused():
            yield


def _noting(
    block: nn.Module, runs: list[Run], see: Callable[[Run], None], takes: str, gives: str, *, answers: bool
) -> AbstractContextManager[None]:
    """Inside, each pass of a block is a run on the pile while it lasts, and is seen at its end."""

    def enter(module, args, kwargs):
        runs.append(Run(before=hidden_in(args, kwargs, takes)))

    def layer_ran(path):
        def note(module, args, output):
            if runs and args and isinstance(output, Tensor):
                runs[-1].layers.append(Layer(path, args[0], output, output.clone() if answers else output))

        return note

    def norm_ran(path):
        def note(module, args, output):
            for layer in runs[-1].layers if runs else ():
                if args and args[0] is layer.answer:
                    layer.answer, layer.held, layer.norm = output, output.clone() if answers else output, path

        return note

    def leave(module, args, output):
        run = runs.pop()
        out = hidden_out(output, gives)
        if run.total is None and run.layers:
            run.last, run.total = run.layers[-1], run.layers[-1].answer
        if run.total is not None and run.total.numel() == out.numel():
            # A total without a negative number looks the same behind a ReLU and without one, so the call counts as well.
            tail = "relu" if run.rectified else "identity"
            run.tail = tail if torch.equal(TAILS[tail](run.total.reshape(out.shape)), out) else None
        see(run)

    after: list[tuple[nn.Module, After]] = []
    for path, module in block.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            after.append((module, layer_ran(path)))
        elif isinstance(module, _BatchNorm):
            after.append((module, norm_ran(path)))
    return hooked(before=[(block, enter)], after=[*after, (block, leave)])


def check_form(form: Form, name: str) -> Form:
    """The same form, if it is the one that this page states. Raises ModelError that says what is otherwise."""
    if not form.layers:
        raise ModelError(f"Block {name} ran no Linear or Conv2d, so there is no layer in it to re-solve. Choose another block.")
    if form.tail is None:
        raise ModelError(
            f"Block {name} does not end in shortcut + layer, with nothing or a ReLU behind it "
            f"(the last layer that ran is {form.layers[-1]}), so its last layer has no target of its own. "
            "Leave this block as it is, or fine-tune instead."
        )
    return form
