"""Take a span of blocks out."""

from typing import Literal

from delayer.edits import SpanEdit, edit
from delayer.fitting.evidence import Evidence
from delayer.modules.stand_in import StandIn
from delayer.network.chain import Chain, Span


@edit("drop_span")
class DropSpan(SpanEdit):
    """Blocks start .. stop-1 leave their list; the hidden state passes.

    Source: ShortGPT (Men et al., arXiv 2403.03853), RedTest (Lu et al., arXiv 2411.10507) and others.
    """

    edit: Literal["drop_span"] = "drop_span"
    reshapes = False

    @property
    def label(self) -> str:
        return f"drop {Span(self.start, self.stop)}"

    @property
    def gone(self) -> set[int]:
        return set(range(self.start, self.stop))

    def apply_(self, chain: Chain, evidence: Evidence | None = None) -> None:
        chain.check(Span(self.start, self.stop))
        for index in range(self.start, self.stop):
            chain.replace_(index, StandIn(chain.module(index), chain.blocks[index]))
