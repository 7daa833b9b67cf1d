"""Sets of single cuts whose changes of the output, added up, move it least: predicted from the singles, at no forward pass.

What one block does to the logits is nearly what it does beside others, so that the divergence of a set follows from the sum of
its members' changes; far better than from the sum of their divergences, since changes may cancel or add up. It fails where
blocks stand in for one another, so the sets are nominated, and judged by the network.
"""

import heapq
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from delayer.edits import Edit
from delayer.search.judging import Cut
from delayer.tasks.outputs import Outputs

MOST_NUMBERS = 1 << 18
"""Numbers of an output that a prediction reads: rows times classes."""
MOST_CLASSES = 1024
"""Classes that are told apart, the original's likeliest of each row; the others are one."""
BEAM = 24


class Changes:
    """How each single cut changes the network's answers, on the same rows.

    reference: the original's answers. Regression and embeddings have no logits, so nothing is kept of them.
    """

    def __init__(self, reference: Outputs):
        self.reference = reference
        self.kept: dict[Edit, Tensor] = {}
        self._rows: Tensor | None = None

    def wants(self, cut: Cut) -> bool:
        """Whether a cut is of one block whose change is not known yet, of a network with logits."""
        single = len(cut) == 1 and [len(span) for span in cut[0].spans] == [1]
        return single and cut[0] not in self.kept and self.reference.kind not in ("regression", "embedding")

    def note(self, edit: Edit, outputs: Outputs) -> None:
        """Keep what one cut changed."""
        if not len(outputs.values):
            return
        if self._rows is None:
            shared = outputs.kept[torch.isin(outputs.kept, self.reference.kept)]
            num = max(1, MOST_NUMBERS // min(outputs.values.shape[-1], MOST_CLASSES))
            self._rows = shared[:: -(-len(shared) // num)]
        self.kept[edit] = self._log_probabilities(outputs) - self.original

    @cached_property
    def original(self) -> Tensor:
        """The original's log-probabilities [rows, classes]; of many classes the likeliest of each row, and the rest as one."""
        return self._log_probabilities(self.reference)

    def divergence(self, change: Tensor) -> float:
        """KL(original || original with its logits changed), nats, the mean over rows."""
        found = (self.original + change).log_softmax(-1)
        return float((self.original.exp() * (self.original - found)).sum(-1).mean())

    def _log_probabilities(self, outputs: Outputs) -> Tensor:
        own = self._read(outputs).log_softmax(-1)
        if own.shape[-1] <= MOST_CLASSES:
            return own
        named = own.gather(-1, self._read(self.reference).topk(MOST_CLASSES - 1, dim=-1).indices)
        rest = torch.log1p(-named.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
        return torch.cat([named, rest], -1)

    def _read(self, outputs: Outputs) -> Tensor:
        assert self._rows is not None
        return outputs.values[torch.isin(outputs.kept, self._rows)].float()


def nominated(changes: Changes, saved: Callable[[Edit], float], target: float, keep: int = 10) -> list[Cut]:
    """The sets of single cuts that save the target and are predicted to move the output least, best first.

    saved: what a single saves. keep: how many sets. Grown by a beam, one cut at a time, of cuts that do not overlap.
    """
    singles = [(edit, saved(edit)) for edit in changes.kept]
    singles = [(edit, saves) for edit, saves in singles if saves > 0]
    beam: list[tuple[float, frozenset[Edit], float, Tensor]] = [(0.0, frozenset(), 0.0, torch.zeros_like(changes.original))]
    done: dict[frozenset[Edit], float] = {}
    for _ in range(len(singles)):
        grown: dict[frozenset[Edit], tuple[float, frozenset[Edit], float, Tensor]] = {}
        for _, chosen, sum_saved, change in beam:
            for edit, saves in singles:
                more = chosen | {edit}
                if more in grown or any(a.overlaps(b) for one in chosen for a in one.spans for b in edit.spans):
                    continue
                moved = change + changes.kept[edit]
                predicted = changes.divergence(moved)
                if sum_saved + saves >= target:
                    done[more] = predicted
                else:
                    grown[more] = predicted, more, sum_saved + saves, moved
        beam = heapq.nsmallest(BEAM, grown.values(), key=lambda state: state[0])
        if not beam or (len(done) >= keep and beam[0][0] > sorted(done.values())[keep - 1]):
            break
    best = sorted(done, key=done.__getitem__)[:keep]
    return [tuple(sorted(chosen, key=lambda edit: edit.spans)) for chosen in best]
