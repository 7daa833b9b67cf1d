"""A depth and width space over a block of the user's own: how many blocks a stage has, and how wide they are."""

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from delayer.errors import NasError
from delayer.nas.cell_network import relu_conv_norm
from delayer.nas.space import Space, named

BlockFactory = Callable[[int, int, int], nn.Module]
"""(in_width, out_width, stride) → a module from [n, in_width, h, w] to [n, out_width, ⌈h/stride⌉, ⌈w/stride⌉]."""


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut. Source: He et al. 2016, arXiv 1603.05027 (pre-activation)."""

    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.inner = nn.Sequential(relu_conv_norm(in_width, width, 3, stride), relu_conv_norm(width, width, 3))
        same = stride == 1 and in_width == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_width, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, height, width] → [batch, out, …], smaller where it has a stride."""
        return self.shortcut(x) + self.inner(x)


RESIDUAL = "delayer.nas.depth_width:residual_block"


def residual_block(in_width: int, width: int, stride: int) -> nn.Module:
    """The block that stands in where the user names none."""
    return Residual(in_width, width, stride)


BLOCK = ("block factory", "factory(in_width, width, stride)")


class DepthWidthSpace(Space):
    """Stages of `depth` blocks of one width each; every stage but the first begins by halving the image.

    A candidate is such as `2x16-3x32`: two blocks of width 16, then three of width 32.

    block: a function that makes one block, or its name, which is imported when the first network is built.
    """

    def __init__(
        self,
        *,
        block: str | BlockFactory = residual_block,
        depths: tuple[int, ...] = (1, 2, 3),
        widths: tuple[int, ...] = (16, 32, 64),
        num_stages: int = 3,
    ):
        self.block, self.num_stages = block, num_stages
        self.choices: Mapping[str, tuple[int, ...]] = {
            f"{what}_{stage}": values
            for stage in range(num_stages)
            for what, values in (("depth", tuple(depths)), ("width", tuple(widths)))
        }

    def encode(self, chosen: Mapping[str, int]) -> str:
        """Depth and width of each stage as a string, such as 1x16-2x32."""
        return "-".join(f"{chosen[f'depth_{s}']}x{chosen[f'width_{s}']}" for s in range(self.num_stages))

    def decode(self, candidate: str) -> dict[str, int]:
        """Depth and width of each stage of a string."""
        stages = candidate.split("-")
        if len(stages) != self.num_stages or not all(re.fullmatch(r"\d+x\d+", stage) for stage in stages):
            raise NasError(
                f"{candidate!r} is no candidate of this space. Write DEPTHxWIDTH for each of "
                f"{self.num_stages} stages, joined by '-', such as {self.encode(self._first())}."
            )
        numbers = [int(number) for stage in stages for number in stage.split("x")]
        for (name, allowed), value in zip(self.choices.items(), numbers, strict=True):
            if value not in allowed:
                raise NasError(
                    f"{candidate!r} has {name.replace('_', ' of stage ')} = {value}. Allowed are {', '.join(map(str, allowed))}."
                )
        return dict(zip(self.choices, numbers, strict=True))

    def _first(self) -> dict[str, int]:
        return {name: values[0] for name, values in self.choices.items()}

    def canonical(self, candidate: str) -> str:
        """The same spelling for the same network."""
        return self.encode(self.decode(candidate))

    def build(self, candidate: str, *, in_channels: int = 3, num_classes: int = 10) -> nn.Module:
        """The network of those depths and widths."""
        block = self.block if callable(self.block) else named(self.block, *BLOCK)
        return StagedNetwork(self.decode(candidate), self.num_stages, block, in_channels, num_classes)

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The stem and every block, in order."""
        assert isinstance(model, StagedNetwork)  # which this space builds
        return [model.stem, *model.body]


class StagedNetwork(nn.Module):
    """[n, in_channels, h, w] → logits [n, num_classes] through stages of blocks."""

    def __init__(self, chosen: Mapping[str, int], num_stages: int, block: BlockFactory, in_channels: int, num_classes: int):
        super().__init__()
        width = chosen["width_0"]
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        body: list[nn.Module] = []
        for stage in range(num_stages):
            for i in range(chosen[f"depth_{stage}"]):
                body.append(block(width, chosen[f"width_{stage}"], 2 if stage and i == 0 else 1))
                width = chosen[f"width_{stage}"]
        self.body = nn.Sequential(*body)
        self.head = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] → logits [batch, classes]."""
        return self.head(self.body(self.stem(x)))
