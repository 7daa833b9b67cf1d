"""A cut that its own library opens wins where validation cannot tell that it is worse, and only there."""

import pytest
import torch

import delayer
from delayer.libraries import library
from delayer.progress import Reporter
from delayer.search.choose import choose, settled_on
from delayer.search.options import PlanOptions, ScanOptions
from delayer.search.preferring import opens_in
from delayer.search.replacing import replaced
from delayer.search.subject import Subject
from delayer.tasks import predictions, task_of
from delayer.tasks.pairing import worse_by


def shifting(size: float) -> torch.nn.Module:
    """A ViT whose blocks each add a vector to all tokens, and little else: an affine map says the same, nothing does not."""
    torch.manual_seed(0)
    model = library("timm", "vision").create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        embed_dim=32,
        num_heads=4,
        depth=5,
        num_classes=7,
        global_pool="avg",
        class_token=False,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
        for block in model.blocks:
            block.attn.proj.weight.mul_(0.02)
            block.mlp.fc2.weight.mul_(0.02)
            block.mlp.fc2.bias.normal_(0, size)
        model.patch_embed.proj.weight.normal_(0, 0.1)
        model.head.weight.normal_(0, 1.0)
    return model.eval()


def subject(model: torch.nn.Module) -> Subject:
    x = torch.randn(160, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batches = [x[k : k + 32] for k in range(0, 160, 32)]
    task = task_of(batches[:2], batches[2:], batches[2:], model=model)
    chain = delayer.chain_of(model, x[:2])
    return Subject(name="shifting", chain=chain, task=task, device=torch.device("cpu"), reporter=Reporter(quiet=True))


def chosen(size: float, **asked):
    about = subject(shifting(size))
    found = choose(about, PlanOptions(remove="blocks=1", effort=6, refit="independent", **asked))
    return about, found


def test_what_is_as_good_and_ordinary_wins():
    about, found = chosen(0.02)
    assert found.plan.drops_only
    assert any("which timm opens without delayer and which is not measurably worse than" in note for note in about.notes)
    rows = found.candidates.measured
    assert {row.opens_in for row in rows if all(edit.operator == "drop" for edit in row.edits)} == {"timm"}
    assert {row.opens_in for row in rows if any(edit.operator != "drop" for edit in row.edits)} == {""}
    best = min(rows, key=lambda row: row.kl)
    assert not best.opens_in and not best.chosen and next(row for row in rows if row.chosen).opens_in == "timm"


def test_the_least_damage_wins_where_that_was_asked():
    about, found = chosen(0.02, prefer="accuracy")
    assert not found.plan.drops_only and not about.notes


def test_what_is_worse_does_not_win_for_being_ordinary():
    about, found = chosen(1.5)
    assert not found.plan.drops_only
    assert any("timm does not open that by itself, and the best cut that it opens" in note for note in about.notes), about.notes


def test_what_is_compared_is_what_is_handed_over():
    """Without repair a dropped block is missed; the blocks beside it, solved anew, add its vector, and nothing is lost then."""
    for repair, library_ in (("none", ""), ("resolve", "timm")):
        about = subject(shifting(1.5))
        options = PlanOptions(remove="blocks=1", effort=6, refit="independent", repair=repair)
        found = replaced(about, options.model_copy(update={"repair": "none"}), ScanOptions())
        assert found.rival and not opens_in(about, found.cut)[0] and opens_in(about, found.rival)[0] == "timm"
        choice = settled_on(about, found, options)
        assert opens_in(about, choice.plan.edits)[0] == library_
        assert [row.opens_in for row in choice.candidates.measured if row.chosen] == [library_]
        assert set(choice.cut) == set(found.rival if library_ else found.cut)
        assert any("on validation after repair, 95 % interval" in note for note in about.notes) == bool(library_)


def test_a_difference_is_paired():
    """Two networks that are wrong on the same samples do not differ, however unsure the level of each is."""
    model = shifting(0.02)
    about = subject(model)
    same = predictions(model, about.task.batches("validation"))
    assert worse_by(same, same, same) == (0.0, (0.0, 0.0))
    with torch.no_grad():
        model.head.weight.neg_()
    other = predictions(model, about.task.batches("validation"))
    loss, (low, high) = worse_by(other, same, same)
    assert low <= loss <= high and low > 0
    back = worse_by(same, other, same)
    assert back[0] == pytest.approx(-loss) and back[1][0] == pytest.approx(-high, abs=3)
