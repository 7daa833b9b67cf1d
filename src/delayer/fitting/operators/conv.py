"""One convolution and the activation that the span's last block ends in, for pictures."""

from typing import Annotated, Literal

from pydantic import Field

from delayer.errors import PlanError
from delayer.fitting.batch_norm import window_of
from delayer.fitting.evidence import Evidence
from delayer.fitting.layer import best_ridge, solve_layer
from delayer.fitting.operators import Operator, operator
from delayer.modules.conv_map import ConvMap
from delayer.network.chain import Chain, Span
from delayer.network.inside_block import Tail
from delayer.registry.options import Inferred


@operator("conv")
class Conv(Operator):
    """One convolution and the blocks' last activation, for pictures: d² k² + d parameters.

    It is fitted on the stream of the network cut so far, to the original's total at the span's end.
    """

    source = "ours"
    reads = "patches"
    kernel: Literal[1, 3, 5] = 3
    """Width of the kernel of a conv: 1, 3 or 5."""
    tail: Annotated[Tail, Inferred()] = "identity"
    """What comes behind the convolution: "relu" where the span's last block ends in one."""
    sweeps: int = Field(default=1, ge=1, le=100)
    """How often the convolution is solved; from the second time on what a ReLU hides is free, see `resolve_block`."""
    ridge: float | None = Field(default=None, ge=0)
    """Share of the inputs' energy, by which it is pulled towards the identity; chosen on held-out samples by default."""

    @property
    def title(self) -> str:
        return f"{self.kernel}×{self.kernel} convolution"

    @property
    def label(self) -> str:
        return self.title

    def suited(self, tail: Tail) -> "Conv":
        return self.model_copy(update={"tail": tail})

    @property
    def keeps_activation(self) -> bool:
        return self.tail == "relu"

    def check(self, width: int, axis: int) -> None:
        if axis != 1:
            raise PlanError(
                f"A convolution was asked for, but this network's features lie on axis {axis}: its blocks do not pass "
                "pictures. Use the operator affine."
            )

    def num_params(self, width: int) -> int:
        return (width * self.kernel**2 + 1) * width

    def num_macs(self, width: int) -> int:
        return (width * self.kernel) ** 2

    def module(self, width: int, axis: int = 1) -> ConvMap:
        self.check(width, axis)
        return ConvMap(width, self.kernel, self.tail)

    def fitted(self, chain: Chain, span: Span, evidence: Evidence) -> ConvMap:
        """The convolution that brings what enters the span nearest to the original's total at its end."""
        found = self.module(chain.check(span).width, chain.axis).double()
        streams = evidence.streams(f"{span} → {self.label}")
        window, like, ridge = window_of(found.conv), next(chain.module(span.start).parameters()), self.ridge
        for sweep in range(self.sweeps):
            present = found.conv.to(like) if sweep else None
            seen, heldout, tail = streams.span(span, window, present)
            if tail != self.tail:
                raise PlanError(f'Span {span} ends in {tail}, but its plan says {self.tail}. Write "tail": "{tail}" in it.')
            weight = found.conv.weight.detach().flatten(1).double()
            if ridge is None:
                ridge = best_ridge(seen, heldout, weight)
            seen.merge(heldout)
            weight, bias = solve_layer(seen, weight, ridge=ridge)
            found.double()
            found.conv.weight.data = weight.reshape(found.conv.weight.shape)
            found.conv.get_parameter("bias").data = bias
        return found
