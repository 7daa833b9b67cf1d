"""The hidden states of a cut network beside its teacher's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from delayer.errors import ModelError
from delayer.network.calling import hidden_out
from delayer.network.hooks import hooked


@contextmanager
def comparing(model: nn.Module, teacher: nn.Module, pairs: Mapping[str, str]) -> Iterator[Callable[..., Tensor]]:
    """Inside: a function that tells how far apart the hidden states were when both networks last saw a batch.

    That is the mean over the pairs of ‖network − teacher‖² / ‖teacher‖². pairs: by path of a module in the network, the path
    of the teacher's whose hidden state it should give (`counterparts`). The function takes the batch's masks [samples,
    tokens], of which the one of a hidden state's width counts (an encoder-decoder has two); padding counts for nothing.
    Raises ModelError for a path that is not there, and where a pair's hidden states differ in shape.
    Source: Romero et al. 2015 (FitNets), arXiv 1412.6550. Fidelity: theirs learns a map between two widths first; a cut
    keeps the widths, and a closed-form fit has brought the hidden states together.
    """
    seen: dict[tuple[nn.Module, str], Tensor] = {}

    def note(network: nn.Module, path: str) -> Callable:
        return lambda module, args, output: seen.__setitem__((network, path), hidden_out(output))

    def distance(*masks: Tensor | None) -> Tensor:
        return torch.stack(
            [_distance(path, seen.pop((model, path)), seen[teacher, other], masks) for path, other in pairs.items()]
        ).mean()

    watched = [(model, path) for path in pairs] + [(teacher, path) for path in dict.fromkeys(pairs.values())]
    with hooked(after=[(_module(network, path), note(network, path)) for network, path in watched]):
        yield distance


def _module(network: nn.Module, path: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"There is no module {path} in {type(network).__name__}, whose hidden state should be "
            "compared. Name modules as model.named_modules() does."
        ) from error


def _distance(path: str, mine: Tensor, theirs: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    if mine.shape != theirs.shape:
        raise ModelError(
            f"The hidden state of {path} has shape {tuple(mine.shape)}, the teacher's {tuple(theirs.shape)}; only "
            "equal shapes can be compared."
        )
    mine, theirs = mine.float(), theirs.detach().float()
    mask = next((one for one in masks if one is not None and mine.ndim == 3 and one.shape == mine.shape[:2]), None)
    if mask is not None:
        mine, theirs = mine[mask.bool()], theirs[mask.bool()]
    return (mine - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12)
