"""A cut network of torchvision's opens, strictly, by the constructor call that its folder says."""

import re
import runpy
import subprocess
import sys

import pytest
import torch
from torch import nn

import delayer
from delayer.errors import ModelError
from delayer.store.proof import reload_proof
from delayer.store.shorter.lists import NotOrdinary
from delayer.store.shorter.torchvision import overheard
from delayer.store.shorter.torchvision_program import PROGRAM

torchvision = pytest.importorskip("torchvision")

CASES = [
    ("resnet18", {"num_classes": 5}, r"layer1\.1", {"layers": [1, 2, 2, 2]}),
    ("vit_b_32", {"image_size": 64, "num_classes": 5}, r"encoder\.layers\.encoder_layer_4", {"num_layers": 11}),
    ("convnext_tiny", {"num_classes": 5}, r"features\.5\.2", {}),
    ("efficientnet_b0", {"num_classes": 5}, r"features\.4\.1", {}),
    ("mobilenet_v2", {"num_classes": 5}, r"features\.6", {}),
    ("mobilenet_v3_small", {"num_classes": 5}, r"features\.5", {}),
    ("regnet_y_400mf", {"num_classes": 5}, r"trunk_output\.block3\.block3-2", {}),
    ("swin_t", {"num_classes": 5}, r"features\.5\.5", {"depths": [2, 2, 5, 2]}),
]


def saved(name, arguments, pattern, folder):
    """The cut network, an input, and what was written of it."""
    torch.manual_seed(0)
    model = delayer.load(f"torchvision.models:{name}", **arguments)
    x = torch.randn(2, 3, 64, 64)
    chain = delayer.chain_of(model, x)
    [block] = [i for i, block in enumerate(chain.blocks) if re.fullmatch(pattern, block.path)]
    plan = delayer.plan_by_hand(chain, [str(block)], operator="drop")
    small = delayer.apply(chain, plan)
    return small, x, delayer.save(small, plan, chain, folder / "cut", example=x)


@pytest.mark.parametrize(
    "name, arguments, pattern, stated",
    [pytest.param(*case, id=case[0], marks=[] if case[0] == "mobilenet_v2" else pytest.mark.slow) for case in CASES],
)
def test_the_folder_holds_the_call_that_opens_it(name, arguments, pattern, stated, tmp_path):
    small, x, artefact = saved(name, arguments, pattern, tmp_path)
    assert artefact.ordinary == "open_with_torchvision.model()", artefact.ordinary_note
    text = (tmp_path / "cut" / PROGRAM).read_text()
    assert "delayer" not in text and all(f"{key}={value!r}" in text for key, value in stated.items())
    same = runpy.run_path(str(tmp_path / "cut" / PROGRAM))["model"]()
    assert type(same) is type(small) and not same.training
    torch.testing.assert_close(same(x), small(x))
    torch.testing.assert_close(delayer.load(str(tmp_path / "cut"))(x), small(x))


def test_a_proof_by_a_loader_that_there_is_not_is_refused(tmp_path):
    small, x, artefact = saved(*CASES[4][:3], tmp_path)
    with pytest.raises(ModelError, match=rf"is opened by {PROGRAM} in it, .* leave ordinary= out"):
        reload_proof(small, tmp_path / "cut", x, ordinary=True)
    chain = delayer.chain_of(delayer.load("torchvision.models:resnet18"), x)
    plan = delayer.plan_by_hand(chain, ["1:2"], operator="affine")
    mapped = delayer.apply(chain, plan, data=delayer.task_of([x], [x], [x], model=chain.model).batches("fit"))
    delayer.save(mapped, plan, chain, tmp_path / "mapped", example=x)
    with pytest.raises(ModelError, match="is no ordinary checkpoint: the plan puts new maps into the network"):
        reload_proof(mapped, tmp_path / "mapped", x, ordinary=True)


@pytest.mark.slow
def test_a_process_without_delayer_opens_it(tmp_path):
    small, x, _ = saved(*CASES[0][:3], tmp_path)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; sys.modules['delayer'] = None\n"
        "from open_with_torchvision import model\n"
        "print(float(model()(torch.load('../x.pt', weights_only=True)).double().sum()))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "cut", capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(small(x).double().sum().item(), rel=1e-4)


@pytest.mark.slow
def test_what_alternates_is_not_said_to_open(tmp_path):
    """Without its first block every block of a Swin's stage would shift its windows the other way."""
    _, _, artefact = saved("swin_t", {"num_classes": 5}, r"features\.5\.2", tmp_path)
    assert not artefact.ordinary and not (tmp_path / "cut" / PROGRAM).exists()
    assert "no argument of torchvision's SwinTransformer takes features.5.2 alone out of it: " in artefact.ordinary_note
    assert "shift_size" in artefact.ordinary_note


def test_of_several_calls_none_is_overheard():
    kind = torchvision.models.resnet.ResNet
    make = torchvision.models.resnet18
    assert overheard(kind, make)[0]["layers"] == [2, 2, 2, 2]
    before = kind.__init__
    with pytest.raises(NotOrdinary, match="its maker calls ResNet 2 times"):
        overheard(kind, lambda: (make(), make()))
    with pytest.raises(NotOrdinary, match=r"cannot be called again \(gone\)"):
        overheard(kind, lambda: exec("raise OSError('gone')"))
    assert kind.__init__ is before


def wider() -> nn.Module:
    model = torchvision.models.resnet18(num_classes=5)
    model.fc = nn.Linear(512, 7)
    return model


@pytest.mark.slow
def test_a_network_that_its_maker_changed_is_none_of_the_librarys(tmp_path):
    model = delayer.load("test_torchvision_calls:wider")
    x = torch.randn(2, 3, 64, 64)
    chain = delayer.chain_of(model, x)
    plan = delayer.plan_by_hand(chain, ["1"], operator="drop")
    artefact = delayer.save(delayer.apply(chain, plan), plan, chain, tmp_path / "cut", example=x)
    assert not artefact.ordinary and "changes what ResNet builds: fc has other parameters then" in artefact.ordinary_note
