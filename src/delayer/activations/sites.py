"""The activations of a network in the order in which they run, each with what feeds it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from delayer.activations.kinds import BY_CALL, activation_of
from delayer.activations.uses import separate_uses_, tracked
from delayer.errors import ModelError
from delayer.network.calling import Inputs, call, each_tensor, evaluating, first_tensor, hidden_in, with_batch
from delayer.network.chain import Chain
from delayer.network.hooks import hooked


@dataclass(frozen=True)
class Site:
    """A place where one activation sits."""

    path: str
    """Of the activation's module."""
    kind: str
    block: int | None
    """The block that it lies in; None for one outside all blocks."""
    axis: int
    """Where the features of its input are: -1 for tokens, 1 for images."""
    num_features: int
    positions: int
    """Rows that one sample gives: tokens or pixels."""
    weight: str | None
    """The weight whose layer ran last before it, which pruning for its sake concerns."""
    norm: str | None
    """The batch norm whose very output it reads; None where something stands between, such as a residual sum."""


def sites_(chain: Chain, example: Inputs) -> tuple[Site, ...]:
    """Every activation of a chain's model, after giving each use a module of its own; the function stays the same.

    example: inputs of a small batch. Activations that read no samples (of a table of positions, say) are no sites.
    Raises ModelError when there is no activation, or where a forward pass that calls one cannot be traced.
    """
    device = next((parameter.device for parameter in chain.model.parameters()), first_tensor(example).device)
    example = each_tensor(lambda x: x.to(device), example)
    separate_uses_(chain.model, example)
    found = tuple(_in_order(chain, example))
    if not found:
        raise ModelError(
            f"{type(chain.model).__name__} runs no activation that delayer knows, so none can be made linear. "
            f"It knows {', '.join(dict.fromkeys(kind.name for kind in BY_CALL.values()))} and prelu."
        )
    return found


def _in_order(chain: Chain, example: Inputs) -> list[Site]:
    """One small forward pass: which activations run, on what, and whose output they read."""
    found: dict[str, Site] = {}
    ran: list[str] = []
    made: dict[int, tuple[Tensor, int, str]] = {}  # by a norm: kept alive, so that no other tensor takes its identity
    wide: dict[int, tuple[Tensor, int]] = {}  # by a linear layer: its features are last also in a network of images
    callers: dict[nn.Module, nn.Module | None] = {}
    names = {module: path for path, module in chain.model.named_modules()}
    example = with_batch(example, max(2, len(first_tensor(example))))
    num_samples, alone = len(first_tensor(example)), _sizes(chain.model, with_batch(example, 1))

    def note_weight(module: nn.Module, args: Any, output: Any) -> None:
        ran.append(f"{names[module]}.weight")
        if isinstance(output, Tensor):
            wide[id(output)] = (output, 1 if isinstance(module, _ConvNd) else -1)

    def note_norm(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = (output, output._version, names[module])

    def note_site(module: nn.Module, args: Any, kwargs: Any) -> None:
        z, path, caller, kind = hidden_in(args, kwargs), names[module], callers.get(module), activation_of(module)
        if kind is None or len(z) != num_samples * alone.get(module, 0):
            return
        same = made.get(id(z))
        axis = -1 if z.ndim == 2 else wide.get(id(z), (z, chain.axis))[1]
        if isinstance(caller, _BatchNorm):  # libraries put the activation inside the norm
            norm = names[caller]
        else:
            norm = same[2] if same is not None and same[1] == z._version else None
        width = z.shape[axis]
        found.setdefault(
            path,
            Site(
                path=path,
                kind=kind.name,
                block=_block_of(chain, path),
                axis=axis,
                num_features=width,
                positions=z.numel() // (width * num_samples),
                weight=ran[-1] if ran else None,
                norm=norm,
            ),
        )

    with tracked(chain.model, lambda module, caller: callers.__setitem__(module, caller)):
        before = [(m, note_site) for m in names if activation_of(m) is not None]
        after = [(m, note_norm) for m in names if isinstance(m, _BatchNorm)]
        after += [(m, note_weight) for m in names if _is_linear(m)]
        with hooked(before=before, after=after), evaluating(chain.model):
            call(chain.model, example)
    return list(found.values())


def _sizes(model: nn.Module, sample: Inputs) -> dict[nn.Module, int]:
    """How long the input of each activation is for one sample: more where samples and positions share a dimension."""
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.setdefault(module, len(hidden_in(args, kwargs)))

    activations = [module for module in model.modules() if activation_of(module) is not None]
    with hooked(before=[(module, note) for module in activations]), evaluating(model):
        call(model, sample)
    return found


def _is_linear(module: nn.Module) -> bool:
    """Whether it multiplies by a matrix or a kernel; a table of embeddings does not."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim > 1 and not isinstance(module, nn.Embedding)


def _block_of(chain: Chain, path: str) -> int | None:
    return next((i for i, block in enumerate(chain.blocks) if path.startswith(f"{block.path}.") or path == block.path), None)
