"""Closed-form repair of trained networks: the cut comes nearer to the original on other images, and reloads."""

from pathlib import Path

import pytest
import torch
from planted import answer
from test_real_weights import images, in_batches

from delayer.cutting import Plan, apply, plan_by_hand
from delayer.families import chain_of
from delayer.network.inside_block import Form
from delayer.search.repair import forms_of, resolved
from delayer.store import load, save
from delayer.store.proof import reload_proof
from delayer.tasks import TaskOptions, evaluate, open_task, predictions

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture(autouse=True)
def in_the_clone(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent.parent)


def test_resnet56_answers_again_after_redtests_cut(data_root):
    model = load("benchmarks.networks:cifar_resnet56", weights=data_root / "weights" / "cifar_resnet56.safetensors")
    task = open_task(
        f"npz:{data_root}/images/cifar10_train20k.npz",
        model,
        TaskOptions(num_fit=200, num_validation=200, num_test=16, batch_size=50),
    )
    fit = task.batches("fit")
    chain = chain_of(model, fit[0].inputs[:2])
    reference = predictions(model, task.batches("validation"))
    plan = plan_by_hand(chain, ["3", "5", "8", "10:18", "19:22"], operator="drop").model_copy(update={"rows": "each:0.25"})

    def grade(plan: Plan):
        small = apply(chain, plan, data=fit)
        return evaluate(small, task, reference=reference), sum(p.numel() for p in small.parameters())

    dropped, size = grade(plan)
    mended, same = grade(plan.model_copy(update={"edits": resolved(chain, plan.edits, fit[0], ridge=1e-2)}))
    assert same == size
    assert dropped.value < 40 and mended.value > 70 and mended.kl < 0.3 * dropped.kl


def last_layers(forms: list[Form]) -> set[tuple[str, str, str]]:
    return {(form.last, form.norm, form.tail) for form in forms}


def test_the_last_layers_of_larger_networks_are_found_and_solved(data_root, tmp_path):
    data = in_batches(images(data_root, 16), 8)
    deit = load("timm:deit_tiny_patch16_224", weights=data_root / "weights" / "deit_tiny_patch16_224.safetensors")
    mobile = load("torchvision.models:mobilenet_v2", weights=data_root / "weights" / "mobilenet_v2_torchvision.safetensors")
    found = {deit: {("mlp.fc2", "", "identity")}, mobile: {("conv.1", "conv.2", "identity"), ("conv.2", "conv.3", "identity")}}
    for model, span in ((deit, "10"), (mobile, "15")):
        chain = chain_of(model, data[0].inputs[:2])
        assert last_layers(forms_of(chain, data[0])) == found[model]
        drop = plan_by_hand(chain, [span], operator="drop")
        plan = drop.model_copy(update={"edits": resolved(chain, drop.edits, data[0], seams_only=True, ridge=1e-2)})
        small, cut = apply(chain, plan, data=data), apply(chain, drop)
        assert not torch.equal(answer(small, data[0].inputs), answer(cut, data[0].inputs))
        artefact = save(small, plan, chain, tmp_path / span, example=data[0].inputs[:2])
        assert artefact.ordinary  # nothing new stands in it
        assert reload_proof(small, tmp_path / span, data[0].inputs[:2]).passed
        again = load(str(tmp_path / span)).state_dict()
        assert all(torch.equal(tensor, again[name]) for name, tensor in small.state_dict().items())
