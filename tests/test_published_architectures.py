"""Each architecture of the papers goes the whole road by the command line: shrink, merge, save, reload elsewhere, compare."""

import json

import numpy as np
import pytest
from test_cli import command, in_the_clone  # noqa: F401  (fixtures)
from test_sources import WORDS

pytestmark = [pytest.mark.slow]
IMAGES = ["resnet18_imagenet", "resnet18_cifar", "vgg16_bn", "mobilenet_v2", "swin_tiny"]
SMALL = [
    "--num-fit",
    "12",
    "--num-validation",
    "6",
    "--num-test",
    "6",
    "--batch-size",
    "6",
    "--remove",
    "2",
    "--a-round",
    "2",
    "--tolerance",
    "100",
    "--seconds",
    "0.1",
    "--no-onnx",
    "--quiet",
    "--json",
]


def whole_road(command, study, model, data, schedule):  # noqa: F811
    code, out, err = command("shrink", model, "--data", data, "--schedule", schedule, "--out", study, *SMALL)
    assert code == 0, err
    results, shrunk = json.loads(out), json.loads((study / "shrink.json").read_text())
    assert shrunk["num_sites"] - shrunk["rounds"][-1]["left"] == 2
    assert all(proof["passed"] for proof in results["proofs"]) and results["proofs"]
    assert all(merge["error"] < 1e-10 for merge in shrunk["merges"] if merge["merged"])
    return results


@pytest.mark.parametrize("schedule", ["ours", "tlc"])
@pytest.mark.parametrize("name", IMAGES)
def test_networks_of_images(command, tmp_path, name, schedule):  # noqa: F811
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", x=rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8), y=np.arange(24) % 4)
    results = whole_road(command, tmp_path / "study", f"tests.published:{name}", f"npz:{tmp_path / 'images.npz'}", schedule)
    if schedule == "ours" and name.startswith("resnet18"):
        assert results["cut"]["params"] < results["original"]["params"], "a block became one convolution"


@pytest.mark.parametrize("schedule", ["ours", "tlc"])
@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_encoders_of_text(command, tmp_path, kind, schedule):  # noqa: F811
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", pad_token=WORDS[0], model_max_length=16
    )
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=2,
        pad_token_id=0,
    )
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    lines = [f"{' '.join(rng.choice(WORDS[4:], 6))}\t{k % 2}" for k in range(24)]
    (tmp_path / "texts.tsv").write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    whole_road(command, tmp_path / "study", str(tmp_path / "model"), f"csv:{tmp_path / 'texts.tsv'}", schedule)
