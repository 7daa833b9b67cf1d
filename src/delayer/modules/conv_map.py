"""The convolution that stands where a span of blocks stood, with the activation that the span ended in."""

from torch import Tensor, nn

from delayer.network.inside_block import Tail

KERNELS = (1, 3, 5)


class ConvMap(nn.Module):
    """y = tail(W * x + b), W [width, width, kernel, kernel], zeros beyond the border, same size in and out.

    It begins as the identity kernel.
    """

    def __init__(self, width: int, kernel: int, tail: Tail = "identity"):
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.get_parameter("bias"))
        self.tail = nn.ReLU() if tail == "relu" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in, *place] → [batch, out, *place]."""
        return self.tail(self.conv(x))


def num_params(width: int, kernel: int) -> int:
    """Parameters of a stand-in."""
    return width * width * kernel * kernel + width
