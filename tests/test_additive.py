"""Changes of single cuts: where they truly add up the prediction is the divergence itself, and the best sets are found."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from delayer.edits.drop_span import DropSpan
from delayer.search import additive
from delayer.search.additive import Changes, nominated
from delayer.tasks.outputs import Outputs


def outputs(logits: torch.Tensor) -> Outputs:
    rows = torch.arange(len(logits))
    return Outputs(
        kind="image-classification",
        split="validation",
        num_samples=len(rows),
        sample=rows,
        top1=logits.argmax(1),
        truth=None,
        nll=None,
        kept=rows,
        values=logits.log_softmax(-1),
    )


def drop(block: int) -> DropSpan:
    return DropSpan(start=block, stop=block + 1)


def made(num_rows: int = 40, num_classes: int = 12, num_blocks: int = 6, scale: float = 1.0):
    """Logits, and what each block adds to them."""
    generator = torch.Generator().manual_seed(0)
    base = 2 * torch.randn(num_rows, num_classes, generator=generator)
    parts = scale * torch.randn(num_blocks, num_rows, num_classes, generator=generator)
    parts[3] = -0.9 * parts[1]  # two that cancel, though each alone does much
    changes = Changes(outputs(base))
    for block, part in enumerate(parts):
        assert changes.wants((drop(block),))
        changes.note(drop(block), outputs(base + part))
        assert not changes.wants((drop(block),))
    return base, parts, changes


def true_divergence(base, parts, chosen):
    p, q = base.double().log_softmax(-1), (base + sum(parts[k] for k in chosen)).double().log_softmax(-1)
    return float(F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean())


@pytest.mark.parametrize("num", [1, 2, 3])
def test_where_changes_add_up_the_best_sets_are_found_exactly(num):
    base, parts, changes = made()
    every = sorted(combinations(range(6), num), key=lambda chosen: true_divergence(base, parts, chosen))
    found = nominated(changes, lambda edit: 1.0, float(num), keep=3)
    assert [tuple(edit.spans[0].start for edit in cut) for cut in found] == every[:3]
    for cut in found:
        chosen = [edit.spans[0].start for edit in cut]
        predicted = changes.divergence(sum(changes.kept[drop(k)] for k in chosen))
        assert predicted == pytest.approx(true_divergence(base, parts, chosen), rel=1e-4)
    if num == 2:
        assert every[0] == (1, 3)  # which no sum of single divergences would take first


def test_of_many_classes_the_rest_is_one(monkeypatch):
    base, parts, whole = made(num_classes=40, scale=0.3)
    monkeypatch.setattr(additive, "MOST_CLASSES", 30)
    _, _, changes = made(num_classes=40, scale=0.3)
    assert changes.original.shape == (40, 30) and torch.allclose(changes.original.exp().sum(-1), torch.ones(40), atol=1e-4)
    for block in range(6):
        assert changes.divergence(changes.kept[drop(block)]) == pytest.approx(whole.divergence(whole.kept[drop(block)]), rel=0.15)


def test_fewer_rows_are_read_of_large_outputs(monkeypatch):
    monkeypatch.setattr(additive, "MOST_NUMBERS", 12 * 10)
    _, _, changes = made()
    assert len(changes.original) == 10


def test_savings_decide_when_a_set_is_complete():
    _, _, changes = made()
    found = nominated(changes, lambda edit: 2.0 if edit.spans[0].start == 5 else 0.5, 2.0, keep=50)
    assert (drop(5),) in found and all(sum(2.0 if e.spans[0].start == 5 else 0.5 for e in cut) >= 2.0 for cut in found)
    assert nominated(changes, lambda edit: 0.0, 1.0) == []
