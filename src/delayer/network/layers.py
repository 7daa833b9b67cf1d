"""The layers whose outputs a network is judged by as a whole: what RedTest measures, for any chain."""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from delayer.network.blocks import Place
from delayer.network.chain import Chain


@dataclass(frozen=True)
class Layer:
    """One layer: the output of a block, or of the convolution before the first one."""

    place: Place
    """Where `observe` sees it: a point, or a module's path."""
    block: int | None
    """None for the convolution before the first block."""
    width: int
    kind: str
    """Class of its module."""


def layers_of(chain: Chain) -> tuple[Layer, ...]:
    """Layers in order: the first convolution of a network of feature maps, before its norm, and every block's output.

    Blocks without a matrix or a kernel of their own (activations, norms, pools that stand in a list among
    convolutions) are no layers. The first convolution counts where it stands outside of all blocks; patch embeddings
    of transformers do not count.
    Source: Lu et al. 2024 (RedTest), arXiv 2411.10507, for CIFAR ResNets and VGGs.
    Fidelity: transformers are ours.
    """
    blocks = [i for i in range(chain.num_blocks) if _has_matrix(chain.module(i))] or list(range(chain.num_blocks))
    found = [Layer(chain.blocks[i].outlet, i, chain.blocks[i].out_width, chain.blocks[i].kind) for i in blocks]
    stem = _stem(chain)
    return tuple(found) if stem is None else (stem, *found)


def _has_matrix(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters())


def _stem(chain: Chain) -> Layer | None:
    """The first convolution that stands before the first block; None for tokens."""
    if chain.axis != 1:
        return None
    first = chain.blocks[0].path
    for path, module in chain.model.named_modules():
        if path == first:
            return None
        if isinstance(module, _ConvNd):
            return Layer(path, None, module.out_channels, type(module).__name__)
    return None
