"""Networks whose weights stay in their files do exactly what they do in memory, and leave no weights there."""

import gc
import json
import struct
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import delayer
from delayer.cutting import Plan, apply
from delayer.edits.drop_span import DropSpan
from delayer.errors import BudgetError, DelayerWarning, ModelError, WeightsError
from delayer.network.hashing import model_hash
from delayer.network.mapped import MappedFile, MappedWeight, bytes_of, is_mapped, let_go
from delayer.network.precision import multiply_in_, multiplying
from delayer.search.repair import resolved
from delayer.store.by_block import mapped_weights, stays_in_files
from delayer.store.streaming import write_shards, write_tensors
from delayer.store.weights import read_weights
from delayer.tasks import task_of

transformers = pytest.importorskip("transformers")


def made(folder: Path, dtype: torch.dtype = torch.bfloat16, *, tied: bool = False, shard: str = "60KB") -> Path:
    """A Llama of four blocks of width 32, saved in several files."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=tied,
    )
    transformers.LlamaForCausalLM(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made(tmp_path_factory.mktemp("bfloat16"))


def both(folder: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    return delayer.load(str(folder), by_block="no"), delayer.load(str(folder), by_block="yes")


def ids(num: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 64, (num, 24), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def task():
    return task_of(*([{"input_ids": ids(8, seed)} for seed in range(k, k + 3)] for k in (0, 3, 6)), kind="causal-lm")


def logits(model, *, fast: bool = False) -> torch.Tensor:
    multiply_in_(model, "bfloat16" if fast else "float32")
    with torch.no_grad(), multiplying(model):
        return model(ids()).logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("tied", [False, True])
def test_the_same_answers_and_the_same_fingerprint_as_in_memory(tmp_path, dtype, tied):
    plain, lying = both(made(tmp_path, dtype, tied=tied))
    assert is_mapped(lying) and not is_mapped(plain)
    assert {weight.dtype for weight in lying.parameters()} == {dtype}
    for fast in (False, True):
        assert torch.equal(logits(plain, fast=fast), logits(lying, fast=fast))
    assert model_hash(plain) == model_hash(lying)
    assert (lying.lm_head.weight is lying.model.embed_tokens.weight) == tied
    writing = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert torch.equal(plain.generate(ids(2), **writing), lying.generate(ids(2), **writing))


def cut_of(model, task) -> torch.nn.Module:
    """The third block goes, and all others that it reaches are solved anew."""
    batches = task.batches("fit")
    chain = delayer.chain_of(model, batches[0].inputs)
    drop = DropSpan(start=2, stop=3)
    plan = Plan(model="", model_hash=model_hash(model), num_blocks=4, edits=resolved(chain, [drop], batches[0], units=True))
    return apply(chain, plan, data=batches)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scores_and_repair_are_those_of_the_network_in_memory(tmp_path, task, dtype):
    plain, lying = both(made(tmp_path, dtype))
    for model in (plain, lying):
        multiply_in_(model, "bfloat16")
    first, second = (delayer.score(delayer.chain_of(m, ids()), task.batches("fit")) for m in (plain, lying))
    assert [score.values for score in first] == [score.values for score in second]
    one, two = cut_of(plain, task), cut_of(lying, task)
    assert two.config.num_hidden_layers == 3
    for (name, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert b.dtype == dtype
        # What is solved is rounded at once where it lies in bfloat16, so that what comes behind it may differ by that.
        torch.testing.assert_close(
            b.float(), a, rtol=2e-2 if dtype == torch.bfloat16 else 0, atol=1e-3 if dtype == torch.bfloat16 else 0, msg=name
        )
    changed = [
        name
        for name, a in two.named_parameters()
        if not torch.equal(a.float(), dict(lying.named_parameters()).get(name, a).float())
    ]
    assert changed


def test_a_study_makes_the_same_plan_and_the_same_files(tmp_path, folder):
    words = " ".join(f"w{k % 50}" for k in range(4000))
    (tmp_path / "text.txt").write_text(words)
    tokenizer(folder)
    saved = {}
    for by_block in ("no", "yes"):
        load = delayer.stages.LoadOptions(by_block=by_block)
        sizes = delayer.TaskOptions(num_fit=8, num_validation=4, num_test=4, max_length=24, batch_size=4)
        work = delayer.stages.open_work(
            str(folder), [f"text:{tmp_path / 'text.txt'}"], out=tmp_path / by_block, load_options=load, task_options=sizes
        )
        assert is_mapped(work.model) == (by_block == "yes")
        with work.study.lock():
            delayer.stages.write_study(work)
            options = delayer.stages.PlanOptions(remove="blocks=1", try_onnx=False, effort=0)
            plan = delayer.stages.plan_stage(work, options)
            small = delayer.stages.cut_stage(work, plan)
        again = work.open(tmp_path / by_block / "model")
        assert is_mapped(again) == (by_block == "yes")
        assert torch.equal(logits(again), logits(small))
        saved[by_block] = plan, tmp_path / by_block / "model"
    (plan, plain), (other, lying) = saved["no"], saved["yes"]
    assert plan.edits == other.edits
    names = sorted(path.name for path in plain.glob("*.safetensors*"))
    assert names == sorted(path.name for path in lying.glob("*.safetensors*")) and len(names) > 2  # sharded in, sharded out
    one, two = read_weights(plain), read_weights(lying)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert two[name].dtype == tensor.dtype == torch.bfloat16
        torch.testing.assert_close(two[name], tensor, rtol=2e-2, atol=1e-3)
    opened = transformers.LlamaForCausalLM.from_pretrained(lying, dtype=torch.float32)
    assert torch.equal(opened(ids()).logits, logits(delayer.load(str(lying), by_block="yes")))


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1} | {f"w{k}": k + 2 for k in range(50)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)


def resident(lying: torch.nn.Module) -> int:
    """Bytes of mapped files that are in this process's memory, by what the system says of each mapping."""
    starts = {weight.data_ptr() for weight in lying.parameters()}
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0] and ":" not in line.split(" ")[0]:
            low, high = (int(x, 16) for x in line.split(" ")[0].split("-"))
            inside = any(low <= start < high for start in starts)
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Sixteen linear layers of a megabyte each, in one file, as a network and as its weights."""
    path = tmp_path_factory.mktemp("wide") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file({f"{k}.weight": torch.randn(512, 512, generator=generator) for k in range(16)}, path)
    return path


def network_of(path: Path) -> torch.nn.Module:
    from delayer.network.by_layer import run_by_layer_

    model = torch.nn.Sequential(*(torch.nn.Linear(512, 512, bias=False, device="meta") for _ in range(16)))
    lying = mapped_weights([path])
    for k, layer in enumerate(model):
        layer.weight = lying[f"{k}.weight"]
    return run_by_layer_(model)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no system that says so")
def test_no_more_than_a_layer_is_in_memory_and_none_after_a_run(wide):
    model, most = network_of(wide), []
    for layer in model:
        layer.register_forward_pre_hook(lambda *_: most.append(resident(model)))
    assert sum(weight.nbytes for weight in model.parameters()) == 16 * 2**20
    model(torch.randn(4, 512))
    assert max(most) <= 2 * 2**20
    assert resident(model) <= 2**18
    model_hash(model)
    assert resident(model) <= 2**18


def test_what_is_changed_is_kept_and_the_file_and_copies_are_not_touched(wide):
    model, before = network_of(wide), load_file(wide)
    copy = deepcopy(model)
    with torch.no_grad():
        copy[3].weight.mul_(2)
        copy[4].weight.detach()[0] = 7.0
    x = torch.randn(4, 512)
    for _ in range(2):  # the second time from the scratch file
        y = x
        for k in range(16):
            weight = before[f"{k}.weight"].clone()
            if k == 3:
                weight *= 2
            if k == 4:
                weight[0] = 7.0
            y = y @ weight.T
        torch.testing.assert_close(copy(x), y)
    again = deepcopy(copy)
    assert torch.equal(again[3].weight, 2 * before["3.weight"]) and again[3].weight.data_ptr() != copy[3].weight.data_ptr()
    assert all(torch.equal(model[k].weight, before[f"{k}.weight"]) for k in range(16))
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(wide).items())
    assert not copy[3].weight.is_changed  # it lies in a file again


def test_a_changed_weight_leaves_no_page_of_its_own_behind(tmp_path):
    """What was written into the mapping of the first file lies in the scratch file alone; the mapping shows the file again."""
    path = tmp_path / "x"
    values = torch.arange(1 << 18, dtype=torch.float32)
    path.write_bytes(bytes(bytes_of(values)))
    file = MappedFile(path.open("rb"))
    weight = MappedWeight.at(file, 0, torch.float32, values.shape)
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(file.tensor(0, torch.float32, values.shape), 2 * values)
    weight.let_go()
    assert weight.lies is not file and torch.equal(weight, 2 * values)
    assert torch.equal(file.tensor(0, torch.float32, values.shape), values)


def test_a_small_changed_weight_stays_in_memory(tmp_path):
    path = tmp_path / "x"
    values = torch.arange(8192, dtype=torch.float32)
    path.write_bytes(bytes(bytes_of(values)))
    weight = MappedWeight.at(MappedFile(path.open("rb")), 0, torch.float32, (8192,))
    with torch.no_grad():
        weight[5] = -1.0
    weight.let_go()
    assert weight.is_changed and weight[5] == -1 and torch.equal(weight[6:], values[6:])
    assert deepcopy(weight)[5] == -1


def test_where_no_scratch_file_can_be_written_changes_stay_in_memory_and_that_is_said(wide, monkeypatch):
    import tempfile

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    model, before = network_of(wide), load_file(wide)["0.weight"]
    with torch.no_grad():
        model[0].weight.add_(1)
    with pytest.warns(DelayerWarning, match="TMPDIR"):
        let_go(model)
    assert torch.equal(model[0].weight, before + 1)


def test_files_written_tensor_by_tensor_are_those_of_safetensors(tmp_path):
    tensors = {
        "b": torch.randn(3, 5).to(torch.bfloat16),
        "a": torch.randn(7),
        "n": torch.arange(3),
        "flags": torch.tensor([True, False, True]),
        "none": torch.empty(0, 4),
        "t": torch.randn(4, 6).T,
    }
    write_tensors(tensors, tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    write_shards(tensors, tmp_path, 100, "float16")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors) and index["metadata"]["total_size"] == 2 * (15 + 7 + 24) + 24 + 3
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert all(
        torch.equal(found[name], tensor.half() if tensor.is_floating_point() else tensor) for name, tensor in tensors.items()
    )


def test_what_cannot_lie_in_files_is_refused_in_a_sentence(tmp_path, folder):
    with pytest.raises(ModelError, match="Leave --by-block yes out"):
        delayer.load("timm:resnet18", by_block="yes")
    pickled = tmp_path / "pickled"
    transformers.LlamaConfig(vocab_size=8, hidden_size=32, num_hidden_layers=1).save_pretrained(pickled)
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError):
        delayer.load(str(pickled), by_block="yes")
    twice = tmp_path / "twice"
    twice.mkdir()
    for part in ("1", "2"):
        save_file({"x": torch.ones(2)}, twice / f"{part}.safetensors")
    with pytest.raises(WeightsError, match="another file"):
        mapped_weights(sorted(twice.glob("*.safetensors")))
    odd = tmp_path / "odd.safetensors"
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    odd.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert (8 + len(header)) % 4
    with pytest.raises(WeightsError, match="odd place"):
        mapped_weights([odd])


def test_weights_that_accelerate_keeps_on_disk_are_refused_with_what_to_do(tmp_path, folder):
    pytest.importorskip("accelerate")
    places = {
        "model.embed_tokens": "cpu",
        "model.layers": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    spread = transformers.LlamaForCausalLM.from_pretrained(folder, device_map=places, offload_folder=tmp_path)
    with pytest.raises(ModelError, match="by_block='yes'"):
        delayer.chain_of(spread, ids())


def test_automatic_where_three_copies_do_not_fit(monkeypatch):
    from delayer.store import by_block

    shapes = {"x": ("BF16", (1000, 1000))}
    for room, stays in ((12_000_001, False), (11_999_999, True)):
        monkeypatch.setattr(by_block, "available_bytes", lambda room=room: room)
        assert stays_in_files("auto", shapes) is stays
    assert stays_in_files("yes", shapes) and not stays_in_files("no", shapes)
    monkeypatch.undo()
    assert 2**20 < by_block.available_bytes() < 2**60


def test_a_network_in_files_is_not_fine_tuned(folder, task):
    gc.collect()
    _, lying = both(folder)
    with pytest.raises(BudgetError, match="by-block no"):
        delayer.tune_(lying, task, options=delayer.TuneOptions(epochs=1))


def test_what_is_estimated_of_a_decoder_grows_as_its_parts_do():
    from delayer.search.footprint import footprint

    def of(layers: int, fit: int = 4096, repairs: int = 1):
        config = transformers.LlamaConfig(
            vocab_size=1000, hidden_size=64, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=4
        )
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(config)
        return footprint(model, list(model.model.layers), fit_tokens=fit, validation_tokens=1024, repairs=repairs)

    small, deep = of(2), of(4)
    assert deep.weights - small.weights == 2 * small.block == 2 * 4 * (4 * 64 * 64 + 3 * 64 * 8192 + 2 * 64)
    assert deep.repair == small.repair and deep.products > small.products
    assert of(2, fit=4096).repair < of(2, fit=8193).repair  # rows, then moments
    assert of(2, repairs=3).fits == 3 * small.fits
    assert small.most < sum((small.resting, small.opening, small.scoring, small.grading, small.repair))
    assert "GiB" in small.line
    assert small.seconds(products=1e9, fits=1e9) == pytest.approx((small.products + small.fits) / 1e9)
