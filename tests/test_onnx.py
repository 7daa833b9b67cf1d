"""Laws of the ONNX export: the graph answers as torch does at sizes it never saw, or no file appears."""

import importlib.util
import logging

import pytest
import torch
from torch import nn

import delayer.measure.onnx
from delayer.errors import DataError, ExportError
from delayer.measure import compare_latency
from delayer.measure.onnx import export_onnx, ort_session
from delayer.network.calling import call, each_tensor, output_of, with_batch
from delayer.study import OnnxInfo

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")


class Pair(nn.Module):
    """Takes its inputs by name and answers with a tuple."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, pixels, scale):
        x = self.norm(self.conv(pixels)).relu().mean((2, 3))
        return x * scale, x


class Branch(nn.Module):
    """Python decides by the data, which no graph can hold."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class FixedBatch(nn.Module):
    """Works for two samples only."""

    def forward(self, x):
        return x + torch.ones(2, 1)


class FixedLength(nn.Module):
    """Works for texts of six tokens only, in batches of any size."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.position = nn.Parameter(torch.randn(6, 4))

    def forward(self, ids):
        return self.embedding(ids) + self.position


class Cached(nn.Module):
    """As decoders do, keeps a cache unless told not to; this one cannot be traced while it does."""

    def forward(self, x, use_cache=True):
        if use_cache and x.sum() < 0:
            raise ValueError("the cache is full")
        return 2 * x


class Wrong(nn.Module):
    """Gives another answer while it is traced."""

    def forward(self, x):
        return x + 1.0 if torch.compiler.is_exporting() else x


def pair():
    return Pair(), {"pixels": torch.randn(2, 3, 8, 8), "scale": torch.rand(2, 4)}


def vit():
    timm = pytest.importorskip("timm")
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=5
    )
    return model, torch.randn(1, 3, 8, 8)


def mobilenet():
    torchvision = pytest.importorskip("torchvision")
    settings = [[1, 8, 1, 1], [2, 8, 2, 2]]
    return torchvision.models.MobileNetV2(5, 0.25, settings), torch.randn(2, 3, 16, 16)


def text():
    ids = torch.randint(1, 64, (2, 7))
    return {"input_ids": ids, "attention_mask": (torch.arange(7) < torch.tensor([[7], [5]])).long()}


def llama():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
    return transformers.LlamaForCausalLM(config), text()


def bert():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=2)), text()


@pytest.mark.parametrize("case", [pair, llama, *(pytest.param(case, marks=pytest.mark.slow) for case in (vit, mobilenet, bert))])
def test_the_graph_answers_as_torch_does(case, tmp_path, capfd, recwarn):
    torch.manual_seed(0)
    model, inputs = case()
    capfd.readouterr()
    check = export_onnx(model, inputs, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "") and not [str(one.message) for one in recwarn.list]
    assert logging.root.manager.disable == logging.NOTSET
    is_text = case in (llama, bert)
    assert check.dynamic and check.dynamic_sequence == is_text and not check.note
    assert check.batch_sizes == (1, 2, 3)
    assert check.max_abs_difference < 1e-4 and check.max_relative_difference < 1e-4
    assert check.size_bytes == (tmp_path / "model.onnx").stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert all(module.training for module in model.modules())

    # Five samples, other values, and texts twice as long: nothing that the export has seen.
    fresh = each_tensor(lambda x: torch.cat([x, x], 1) if is_text else x * 0.5, with_batch(inputs, 5))
    model.eval()
    with torch.no_grad():
        found = call(ort_session(tmp_path / "model.onnx", threads=1), fresh)
        torch.testing.assert_close(found, output_of(call(model, fresh)), atol=1e-4, rtol=1e-4)


def test_a_fixed_batch_is_exported_with_a_note(tmp_path):
    check = export_onnx(FixedBatch(), torch.randn(2, 4), tmp_path / "model.onnx")
    assert not check.dynamic and check.batch_sizes == (2,)
    assert check.note.startswith("Not with a free batch: ")


def test_a_fixed_length_leaves_the_batch_free(tmp_path):
    check = export_onnx(FixedLength(), torch.randint(0, 11, (2, 6)), tmp_path / "model.onnx")
    assert check.dynamic and not check.dynamic_sequence and check.max_abs_difference == 0
    assert check.note.startswith("Not with a free batch and sequence: ")


def test_a_static_graph_on_request(tmp_path):
    check = export_onnx(nn.Linear(4, 2), torch.randn(3, 4), tmp_path / "model.onnx", batch_dynamic=False)
    assert not check.dynamic and check.batch_sizes == (3,) and not check.note
    assert isinstance(check, OnnxInfo)  # so that a study keeps it as it is


def test_experts_are_exported_as_one_batched_product_and_stay_as_they_were(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=24,
        num_local_experts=4,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config).eval()
    before = model.config._experts_implementation
    ids = torch.randint(0, 40, (2, 6), generator=torch.Generator().manual_seed(0))
    assert export_onnx(model, {"input_ids": ids}, tmp_path / "m.onnx").max_relative_difference < 1e-5
    assert before != "batched_mm" and model.config._experts_implementation == before


def test_decoders_are_exported_without_their_cache(tmp_path):
    assert export_onnx(Cached(), torch.rand(2, 4), tmp_path / "model.onnx").dynamic


@pytest.mark.parametrize(("model", "reason"), [(Branch(), "data-dependent"), (Wrong(), "torch and onnxruntime differ by 1,")])
def test_a_failed_export_says_why_and_changes_nothing(model, reason, tmp_path, capfd, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.getLogger("torch.fx.experimental.symbolic_shapes"), "handlers", [caplog.handler])
    path = tmp_path / "model.onnx"
    path.write_text("what stood here before")
    with pytest.raises(ExportError) as caught:
        export_onnx(model, torch.rand(2, 4), path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert f"{type(model).__name__} could not be exported to {path}: " in str(caught.value)
    assert "Nothing was written. Change what it names" in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_text() == "what stood here before"
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_large_weights_lie_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(delayer.measure.onnx, "SINGLE_FILE_BYTES", 1000)
    torch.manual_seed(0)
    model, x = nn.Linear(64, 64).eval(), torch.randn(2, 64)
    check = export_onnx(model, x, tmp_path / "model.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert check.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir()) > 64 * 64 * 4
    found = ort_session(tmp_path / "model.onnx")(x)
    torch.testing.assert_close(found, model(x).detach(), atol=1e-5, rtol=1e-5)


def test_unusable_inputs_are_the_callers_error(tmp_path):
    with pytest.raises(DataError, match="found list"):
        export_onnx(nn.Linear(4, 2), [torch.randn(3, 4)], tmp_path / "model.onnx")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("delayer.measure.onnx_session.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ExportError) as caught:
        export_onnx(nn.Linear(4, 2), torch.randn(3, 4), tmp_path / "model.onnx")
    assert 'missing: onnxscript. Install them with: pip install "delayer[onnx]"' in str(caught.value)


@pytest.mark.serial
def test_latency_of_exported_networks():
    torch.manual_seed(0)

    def deep(num):
        return nn.Sequential(*(nn.Linear(256, 256) for _ in range(num)))

    records = compare_latency(deep(12), deep(2), torch.randn(2, 256), (1, 4), engine="onnxruntime", seconds=0.3, threads=1)
    assert [(record.engine, record.batch_size, record.device) for record in records] == [
        ("onnxruntime", 1, "cpu"),
        ("onnxruntime", 4, "cpu"),
    ]
    assert all(record.speedup_interval[0] > 1 and record.threads == 1 for record in records)


def test_latency_at_a_batch_size_that_the_graph_lacks():
    with pytest.raises(ExportError) as caught:
        compare_latency(FixedBatch(), FixedBatch(), torch.randn(2, 4), (1, 2), engine="onnxruntime")
    assert "batch sizes 1, 2, but the graph of the original network takes only 2: " in str(caught.value)
    assert "Ask for that size alone." in str(caught.value)


@pytest.mark.data
@pytest.mark.parametrize("name", ["deit_tiny", "mobilenet_v2", "stories260k"])
def test_real_networks(name, data_root, tmp_path):
    from safetensors.torch import load_file

    weights = data_root / "weights"
    if name == "stories260k":
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(weights / name).float()
        inputs = {"input_ids": torch.randint(3, 512, (2, 30)), "attention_mask": torch.ones(2, 30).long()}
    elif name == "deit_tiny":
        model = pytest.importorskip("timm").create_model("deit_tiny_patch16_224")
        model.load_state_dict(load_file(weights / "deit_tiny_patch16_224.safetensors"))
        inputs = torch.randn(2, 3, 224, 224)
    else:
        model = pytest.importorskip("torchvision").models.mobilenet_v2()
        model.load_state_dict(load_file(weights / "mobilenet_v2_torchvision.safetensors"))
        inputs = torch.randn(2, 3, 224, 224)
    check = export_onnx(model, inputs, tmp_path / "model.onnx")
    assert check.dynamic and check.max_relative_difference < 1e-4 and not check.note
