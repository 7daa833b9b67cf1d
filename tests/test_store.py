"""Networks by name, in and out of folders: what is saved loads again as the same function, or says why not."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from planted import BY_NAME, CASES, Stages, answer, cut, every_other, gap, normal
from safetensors.torch import load_file, save_file
from torch import nn

from delayer.cutting import apply, apply_, plan_by_hand
from delayer.errors import (
    DelayerError,
    DelayerWarning,
    ModelError,
    NotFiniteError,
    PlanError,
    StudyError,
    UnknownName,
    WeightsError,
)
from delayer.families import chain_of
from delayer.libraries import library, quiet
from delayer.network.calling import example_of
from delayer.network.chain import Chain
from delayer.store import load, read_artefact, save
from delayer.store.proof import reload_proof
from delayer.store.weights import fill_, read_weights


def saved(chain: Chain, folder: Path, inputs, *, dropped=(), mapped=(), **more):
    """Cut a copy, give its maps uneven weights, save it; the copy and the artefact."""
    small = cut(chain, dropped, mapped)
    for name, parameter in small.named_parameters():
        if ".map." in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    plan = plan_by_hand(chain, [], operator="drop").model_copy(update={"edits": small.delayer_edits})
    return small, save(small, plan, chain, folder, example=inputs, **more)


def original(name: str, folder: Path) -> Chain:
    """The chain of a planted network as `load` gives it."""
    case = BY_NAME[name]
    return chain_of(load(**case.write(case.chain().model, folder)), case.inputs())


# -- the road, for every family ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", every_other(CASES, 1))
def test_a_network_goes_from_its_name_to_a_folder_and_back(case, tmp_path):
    planted, inputs = case.chain().model, case.inputs()
    expected = answer(planted, inputs)
    chain = chain_of(load(**case.write(planted, tmp_path)), inputs)
    assert gap(answer(chain.model, inputs), expected) < 1e-5

    small, artefact = saved(chain, tmp_path / "drop", inputs, dropped=case.spans)
    assert bool(artefact.ordinary) == case.ordinary, artefact.ordinary_note
    again = load(str(tmp_path / "drop"))
    assert gap(answer(again, inputs), expected) < 1e-5 and not again.training
    assert not any(module.training for module in again.modules())
    if case.ordinary:
        assert gap(answer(by_its_own_loader(case.source, tmp_path / "drop"), inputs), expected) < 1e-5

    small, artefact = saved(chain, tmp_path / "map", inputs, mapped=case.spans[:1], dropped=case.spans[1:])
    assert not artefact.ordinary and "new maps" in artefact.ordinary_note
    assert not (tmp_path / "map" / "config.json").exists()
    assert gap(answer(load(str(tmp_path / "map")), inputs), answer(small, inputs)) < 1e-6
    assert gap(answer(small, inputs), expected) > 1e-3


def by_its_own_loader(source: str, folder: Path) -> nn.Module:
    """What somebody opens who never heard of delayer."""
    if source.startswith("timm:"):
        import timm

        return timm.create_model(f"local-dir:{folder}", pretrained=True)
    if source.startswith("planted:torchvision"):
        return runpy.run_path(str(folder / "open_with_torchvision.py"))["model"]()
    transformers = library("transformers", "text")
    with quiet(transformers):
        model, report = getattr(transformers, source).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model


@pytest.mark.parametrize("name", ["timm-swin", "hf-swin"])
def test_a_swin_whose_windows_no_longer_alternate_is_no_ordinary_one(name, tmp_path):
    """Block 3 shifts its windows; without it the blocks around it both shift as before, an ordinary Swin would not."""
    chain, inputs = original(name, tmp_path), BY_NAME[name].inputs()
    small, artefact = saved(chain, tmp_path / "cut", inputs, dropped=["3"])
    assert not artefact.ordinary and "shift_size=" in artefact.ordinary_note
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["delayer.json", "model.safetensors", "plan.json"]
    assert gap(answer(load(str(tmp_path / "cut")), inputs), answer(chain.model, inputs)) < 1e-5


def test_gpt2_that_scales_by_layer_number_is_no_ordinary_one(tmp_path):
    case = BY_NAME["gpt2"]
    transformers = library("transformers", "text")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**case.arguments | {"scale_attn_by_inverse_layer_idx": True}))
    chain = chain_of(model.eval(), case.inputs())
    for parameter in model.parameters():
        parameter.data *= 5
    small, artefact = saved(chain, tmp_path / "cut", case.inputs(), dropped=["0"])
    assert "builds from a lower n_layer is another one: transformer.h.1.attn has scaling=" in artefact.ordinary_note
    assert gap(answer(load(str(tmp_path / "cut")), case.inputs()), answer(small, case.inputs())) < 1e-6


def test_a_whole_stage_may_go(tmp_path):
    chain, inputs = original("timm-swin", tmp_path), BY_NAME["timm-swin"].inputs()
    small, _ = saved(chain, tmp_path / "cut", inputs, dropped=["0:2"])
    assert gap(answer(load(str(tmp_path / "cut")), inputs), answer(small, inputs)) < 1e-6


# -- fresh processes -------------------------------------------------------------------------------------------------


OWN = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.outer(self.inner(x).relu())

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

def make(width=8):
    return Net(width)

def none(width=8):
    return None

def fails():
    raise OSError("the disk is on fire")
"""


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module of networks in it that no other test has imported."""
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("own_networks", None)
    return tmp_path


def test_a_fresh_process_opens_a_network_from_the_current_folder(own):
    model, x = load("own_networks:make", width=6), normal(3, 6)()
    chain = chain_of(model, x)
    small, _ = saved(chain, own / "study" / "model", x, dropped=["1"], mapped=["2:4"])
    proof = reload_proof(small, own / "study" / "model", x)
    assert proof.passed and proof.max_abs_difference < 1e-6 and proof.loader == "delayer.load", proof.note
    for parameter in small.parameters():
        parameter.data += 0.1
    proof = reload_proof(small, own / "study" / "model", x)
    assert not proof.passed and proof.max_abs_difference > 1e-2
    (own / "own_networks.py").unlink()
    proof = reload_proof(small, own / "study" / "model", x)
    assert not proof.passed and "could not load it" in proof.note and "own_networks:make" in proof.note


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm-vit", "llama-tied"])
def test_a_fresh_process_opens_what_libraries_made(name, tmp_path):
    chain, inputs = original(name, tmp_path), BY_NAME[name].inputs()
    small, _ = saved(chain, tmp_path / "drop", inputs, dropped=BY_NAME[name].spans)
    for ordinary in (False, True):
        proof = reload_proof(small, tmp_path / "drop", inputs, ordinary=ordinary)
        assert proof.passed, proof.note
    small, _ = saved(chain, tmp_path / "map", inputs, mapped=BY_NAME[name].spans)
    proof = reload_proof(small, tmp_path / "map", inputs)
    assert proof.passed, proof.note


# -- cutting again ---------------------------------------------------------------------------------------------------


AGAIN = ("timm-vit", "hf-vit", "torchvision-mobilenetv2", "llama", "own-stages")
TWICE = [(name, way) for name in AGAIN for way in ("dropped", "mapped")]


@pytest.mark.parametrize(
    "name, way", [pytest.param(*one, marks=[pytest.mark.slow] * (number % 4 in (1, 2))) for number, one in enumerate(TWICE)]
)  # each network once in the quick suite, by the two ways in turn
def test_what_was_loaded_may_be_cut_again(name, way, tmp_path):
    case, inputs = BY_NAME[name], BY_NAME[name].inputs()
    once, _ = saved(original(name, tmp_path), tmp_path / "once", inputs, **{way: case.spans[:1]})
    chain = chain_of(load(str(tmp_path / "once")), inputs)
    gone = set().union(*(edit.gone for edit in once.delayer_edits)) if chain.family.shortens else set()
    kept = str(case.kept - sum(i < case.kept for i in gone))
    twice, artefact = saved(chain, tmp_path / "twice", inputs, dropped=[kept])
    by_program = case.source.startswith("planted:torchvision")  # which a saved folder holds, and nothing runs
    assert bool(artefact.ordinary) == (case.ordinary and way == "dropped" and not by_program), artefact.ordinary_note
    third = load(str(tmp_path / "twice"))
    assert gap(answer(third, inputs), answer(twice, inputs)) < 1e-6
    assert gap(answer(twice, inputs), answer(once, inputs)) > 1e-3
    chain = chain_of(third, inputs)
    saved(chain, tmp_path / "thrice", inputs, mapped=[str(chain.segments[-1].start)])
    load(str(tmp_path / "thrice"))


def test_two_cuts_in_memory_are_no_one_plan(tmp_path):
    chain = original("own-stages", tmp_path)
    x = BY_NAME["own-stages"].inputs()
    once = cut(chain, ["0"])
    second = chain_of(once, x)
    plan = plan_by_hand(second, ["1"], operator="drop")
    with pytest.raises(ModelError, match="more than once since it was loaded.*save and load it between two cuts"):
        save(apply(second, plan), plan, second, tmp_path / "cut", example=x)
    with pytest.raises(ModelError, match="cut by another plan than the one given"):
        save(once, plan_by_hand(chain, ["1"], operator="drop"), chain, tmp_path / "cut", example=x)
    assert not (tmp_path / "cut").exists()


def test_a_cut_in_place_is_saved_where_its_origin_is_known(tmp_path):
    loaded, inputs = original("llama", tmp_path), BY_NAME["llama"].inputs()
    in_memory = BY_NAME["llama"].chain()
    for chain in (loaded, in_memory):
        plan = plan_by_hand(chain, ["2:4"], operator="drop")
        apply_(chain, plan)
        if chain is loaded:
            save(chain.model, plan, chain, tmp_path / "cut", example=inputs)
            assert gap(answer(load(str(tmp_path / "cut")), inputs), answer(chain.model, inputs)) < 1e-6
        else:
            with pytest.raises(ModelError, match="not loaded by delayer and was cut in place.*cut a copy"):
                save(chain.model, plan, chain, tmp_path / "cut", example=inputs)


def test_a_network_of_ones_own_needs_its_maker_named(own):
    x = normal(3, 8)()
    chain = chain_of(Stages().eval(), x)
    with pytest.raises(ModelError, match="This Stages was not loaded by delayer.*factory='package.module:factory'"):
        saved(chain, own / "cut", x, dropped=["1"])
    small, artefact = saved(chain, own / "cut", x, dropped=["1"], factory="planted:Stages")
    assert artefact.source.kind == "factory"
    assert gap(answer(load(str(own / "cut")), x), answer(small, x)) < 1e-6


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-vit", "hf-vit", "llama-tied", "gpt2", "own-stages"])
def test_half_precision_files_load_into_single_precision(name, tmp_path):
    case = BY_NAME[name]
    model = case.build()
    arguments = case.write(model, tmp_path)
    if "weights" not in arguments:
        arguments["weights"] = tmp_path / "original" / "model.safetensors"
    halves = {key: value.half() if value.is_floating_point() else value for key, value in load_file(arguments["weights"]).items()}
    save_file(halves, str(tmp_path / "half.safetensors"), metadata={"format": "pt"})
    found = load(**arguments | {"weights": tmp_path / "half.safetensors"})
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    for key, value in model.state_dict().items():
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(found.state_dict()[key], expected), key


def test_a_half_precision_hub_folder_gives_single_precision(tmp_path):
    model = BY_NAME["llama"].build().half()
    with quiet(library("transformers", "text")):
        model.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    found, inputs = load(str(tmp_path / "half")), BY_NAME["llama"].inputs()
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    small, artefact = saved(chain_of(found), tmp_path / "cut", inputs, dropped=["1"])
    assert artefact.ordinary
    assert {p.dtype for p in by_its_own_loader("LlamaForCausalLM", tmp_path / "cut").parameters()} == {torch.float16}
    assert {p.dtype for p in load(str(tmp_path / "cut")).parameters()} == {torch.float32}


def test_tied_embeddings_are_saved_once_and_stay_tied(tmp_path):
    chain, inputs = original("llama-tied", tmp_path), BY_NAME["llama-tied"].inputs()
    for way in ("dropped", "mapped"):
        small, _ = saved(chain, tmp_path / way, inputs, **{way: ["0"]})
        assert "lm_head.weight" not in load_file(tmp_path / way / "model.safetensors")
        again = load(str(tmp_path / way))
        assert again.lm_head.weight is again.model.embed_tokens.weight


def test_bert_without_a_pooler(tmp_path):
    """Sentence encoders lack the pooler that the class would make up at random."""
    transformers = library("transformers", "text")
    model = transformers.BertModel(transformers.BertConfig(**BY_NAME["bert"].arguments), add_pooling_layer=False).eval()
    with quiet(transformers):
        model.save_pretrained(tmp_path / "bare")
    inputs = BY_NAME["bert"].inputs()
    chain = chain_of(load(str(tmp_path / "bare")), inputs)
    assert chain.model.pooler is None
    for way in ("dropped", "mapped"):
        small, artefact = saved(chain, tmp_path / way, inputs, **{way: ["1"]})
        again = load(str(tmp_path / way))
        assert again.pooler is None and gap(answer(again, inputs), answer(small, inputs)) < 1e-6
        assert way == "mapped" or artefact.ordinary.endswith("from_pretrained(FOLDER, add_pooling_layer=False)")


@pytest.mark.parametrize(("first", "lengths"), [(b"\x80", range(400)), (b"PK", range(19000, 19400))])
def test_a_length_that_looks_like_a_pickle_is_none(first, lengths, tmp_path):
    """A safetensors file begins with the length of its header, whose first bytes may be a pickle's."""
    path = tmp_path / "weights.safetensors"
    for length in lengths:
        save_file({"w": torch.zeros(1)}, str(path), metadata={"pad": "p" * length})
        if path.read_bytes().startswith(first):
            break
    assert path.read_bytes().startswith(first)
    assert list(read_weights(path)) == ["w"]


class Runs:
    """Were it unpickled, a file would appear."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_pickle_is_ever_opened(own):
    weights, arguments = own / "weights.pt", {"name": "own_networks:make"}
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save({"w": Runs(own / "opened")}, weights, **options)
        with pytest.raises(WeightsError, match="is a pickle .* reads safetensors only. Convert it"):
            load(**arguments, weights=weights)
    model = BY_NAME["llama"].build()
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(own / "hub")
    torch.save({"w": Runs(own / "opened")}, own / "hub" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="no safetensors weights that LlamaForCausalLM can load.*never opens pickl"):
        load(str(own / "hub"))
    assert not (own / "opened").exists()


def test_weights_that_do_not_fit_are_listed(own):
    state = load("own_networks:make").state_dict()

    def given(**changed) -> str:
        save_file({k: v for k, v in (state | changed).items() if v is not None}, "w.safetensors")
        with pytest.raises(WeightsError) as error:
            load("own_networks:make", weights="w.safetensors")
        return str(error.value)

    every = dict.fromkeys(state)
    assert given(**every | {"blocks.0.inner.bias": state["blocks.0.inner.bias"]}) == (
        "w.safetensors does not fit Net: of 16 tensors 15 missing (blocks.0.inner.weight, blocks.0.outer.bias, "
        "blocks.0.outer.weight, …). Give the weights of this very network, or the network of these weights."
    )
    assert "1 unknown to the network (head)" in given(head=torch.zeros(2))
    assert "1 of another shape (blocks.0.inner.bias is [9] where the network has [8])" in given(
        **{"blocks.0.inner.bias": torch.zeros(9)}
    )
    both = given(**{"blocks.0.inner.bias": None, "x": torch.zeros(1)})
    assert "1 missing (blocks.0.inner.bias); 1 unknown to the network (x)" in both


def test_hub_weights_that_do_not_fit_are_listed(tmp_path):
    """Loaders that fill what is missing at random are not believed."""
    case = BY_NAME["bert"]
    arguments = case.write(case.build(), tmp_path)
    path = tmp_path / "original" / "model.safetensors"
    state = load_file(path)
    wrong = tmp_path / "wrong.safetensors"
    for change, message in (
        ({"classifier.bias": None, "classifier.weight": None}, r"2 missing \(classifier.bias, classifier.weight\)"),
        ({"classifier.bias": torch.zeros(7)}, r"1 of another shape \(classifier.bias is \[7\] where .* has \[2\]\)"),
        ({"more": torch.zeros(7)}, r"1 unknown to the network \(more\)"),
    ):
        changed = {k: v for k, v in (state | change).items() if v is not None}
        save_file(changed, str(wrong), metadata={"format": "pt"})
        with pytest.raises(WeightsError, match=f"does not fit BertForSequenceClassification: .*{message}"):
            load(**arguments, weights=wrong)
        save_file(changed, str(path), metadata={"format": "pt"})
        if "more" in change:
            load(**arguments)  # a hub folder may hold more heads than one class has
        else:
            with pytest.raises(WeightsError, match=f"does not fit BertForSequenceClassification: .*{message}"):
                load(**arguments)


def test_two_values_for_one_shared_tensor_are_refused(tmp_path):
    model = BY_NAME["llama-tied"].build()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    weights["lm_head.weight"] += 1
    with pytest.raises(WeightsError, match="different values for .*embed_tokens.weight and lm_head.weight"):
        fill_(model, weights, name="weights.safetensors")


# -- what else may go wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"name": "timm:vit_tinny_patch16_224"}, UnknownName, "timm has no model 'vit_tinny_patch16_224'. Did you mean"),
        ({"name": "timm:qqqqqqqq"}, UnknownName, r"timm has no model 'qqqqqqqq'\. See timm.list_models"),
        (
            {"name": "vit_tiny_patch16_224"},
            UnknownName,
            "neither a folder of delayer's, a timm:NAME.*Did you mean timm:vit_tiny_patch16_224",
        ),
        ({"name": "no-such/network"}, UnknownName, "'no-such/network' is neither a folder of delayer's"),
        ({"name": "."}, UnknownName, "The folder needs a config.json and model.safetensors"),
        ({"name": "own_networks:makes"}, UnknownName, "own_networks:makes' cannot be found .*Did you mean make"),
        ({"name": "own_netwerks:make"}, UnknownName, "cannot be found .*No module named 'own_netwerks'.*Name a function"),
        ({"name": "own_networks:none"}, ModelError, "gave a NoneType where a torch.nn.Module was expected"),
        ({"name": "own_networks:fails"}, ModelError, r"own_networks:fails\(\) failed with OSError: the disk is on fire"),
        ({"name": "own_networks:make", "depth": 3}, ModelError, r"make\(depth=3\) failed with TypeError: .*unexpected"),
        ({"name": "own_networks:Net"}, ModelError, r"own_networks:Net\(\) failed with TypeError: .*missing 1 required"),
        ({"name": "timm:vit_tiny_patch16_224", "weights": "w", "depht": 3}, ModelError, "timm could not build .*depht"),
        ({"name": "own_networks:make", "weights": "none.safetensors"}, WeightsError, "There is no weights file none.saf"),
        ({"name": "own_networks:make", "weights": "cut.safetensors"}, WeightsError, "cut.safetensors is truncated, corr"),
        ({"name": "own_networks:make", "weights": "text.safetensors"}, WeightsError, "truncated, corrupted or no safetens"),
        (
            {"name": "own_networks:make", "weights": "nan.safetensors"},
            NotFiniteError,
            "Weight blocks.2.inner.bias holds 1 values that are NaN or infinite",
        ),
    ],
)
def test_what_cannot_be_loaded_is_said(arguments, kind, message, own):
    state = load("own_networks:make").state_dict()
    save_file(state, "whole.safetensors")
    (own / "cut.safetensors").write_bytes((own / "whole.safetensors").read_bytes()[:-5])
    (own / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    state["blocks.2.inner.bias"][0] = float("nan")
    save_file(state, "nan.safetensors")
    with pytest.raises(kind, match=message):
        load(**arguments)


def test_a_folder_that_was_tampered_with_is_refused(own):
    x = normal(3, 8)()
    folder = own / "cut"
    saved(chain_of(load("own_networks:make"), x), folder, x, dropped=["1"], mapped=["3"])
    plan, artefact, weights = ((folder / name).read_bytes() for name in ("plan.json", "delayer.json", "model.safetensors"))

    def message(name: str, content: bytes, kind: type[DelayerError]) -> str:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        refused = WeightsError if name.endswith(".safetensors") else ModelError
        with pytest.raises(refused, match=f"{name} was changed"):
            load(str(folder))
        with pytest.raises(kind) as error, pytest.warns(DelayerWarning, match=f"{name} was changed. It is opened all the same"):
            load(str(folder), allow_changed=True)
        (folder / name).write_bytes(kept)
        return str(error.value)

    assert "plan.json is not a valid Plan: the file as a whole" in message("plan.json", plan[:-9], PlanError)
    assert "num_blocks" in message(
        "plan.json",
        plan.replace(b'"num_blocks":4', b'"num_blocks":"x"').replace(b'"num_blocks": 4', b'"num_blocks": "x"'),
        PlanError,
    )
    five = json.dumps(json.loads(plan) | {"num_blocks": 5}).encode()
    assert "for a network of 5 blocks (Net); this one has 4" in message("plan.json", five, PlanError)
    no_edits = json.dumps(json.loads(plan) | {"edits": []}).encode()
    assert "does not fit Net" in message("plan.json", no_edits, WeightsError)
    (folder / "delayer.json").write_bytes(artefact[:-9])
    with pytest.raises(ModelError, match="delayer.json is not a valid Artefact"):
        load(str(folder), allow_changed=True)
    (folder / "delayer.json").write_bytes(artefact)
    assert "truncated" in message("model.safetensors", weights[:-9], WeightsError)
    moved = artefact.replace(b"blocks.2", b"layers.2")
    assert "This Net has no module layers.2, where a block was when it was saved" in message("delayer.json", moved, ModelError)
    (folder / "plan.json").unlink()
    with pytest.raises(ModelError, match="is not as it was saved: plan.json is gone"):
        load(str(folder))


def test_a_plan_for_other_weights_is_refused(own):
    x = normal(3, 8)()
    chain, other = (chain_of(load("own_networks:make"), x) for _ in range(2))
    plan = plan_by_hand(chain, ["1"], operator="affine")
    assert load("own_networks:make").training is False
    with pytest.raises(PlanError, match="This plan is for Net with weights .*empty model_hash in the plan"):
        apply(other, plan, data=[])
    assert isinstance(apply_(chain, plan), nn.Module)


def test_a_full_disk_leaves_the_old_folder(own, monkeypatch):
    x = normal(3, 8)()
    chain = chain_of(load("own_networks:make"), x)
    saved(chain, own / "cut", x, dropped=["1"])
    before = answer(load(str(own / "cut")), x)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("delayer.store.ordinary.save_file", full)
    with pytest.raises(StudyError, match="could not be written .No space left on device.; what stood there before is"):
        saved(chain, own / "cut", x, dropped=["2"])
    assert torch.equal(answer(load(str(own / "cut")), x), before)
    assert not [path for path in own.iterdir() if path.name.startswith(".cut")]


def test_loading_and_saving_print_nothing(tmp_path, capfd):
    logging = library("transformers", "text").utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    chain, inputs = original("llama", tmp_path), BY_NAME["llama"].inputs()
    saved(chain, tmp_path / "cut", inputs, dropped=["1"])
    load(str(tmp_path / "cut"))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_a_tokenizer_travels_and_none_is_made_up(tmp_path):
    transformers = library("transformers", "text")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<unk>": 0, "cut": 1, "deep": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    chain, inputs = original("bert", tmp_path), BY_NAME["bert"].inputs()
    saved(chain, tmp_path / "without", inputs, mapped=["1"])
    assert not list((tmp_path / "without").glob("tokenizer*"))
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    made.save_pretrained(tmp_path / "original")
    saved(chain, tmp_path / "once", inputs, mapped=["1"])
    again = load(str(tmp_path / "once"))
    saved(chain_of(again, inputs), tmp_path / "twice", inputs, mapped=["1"])
    for folder in ("once", "twice"):
        found = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert found("deep cut")["input_ids"] == [2, 1]
    assert again.config._name_or_path == str(tmp_path / "once")


def test_the_artefact_says_what_a_batch_looks_like(own):
    x = normal(3, 8)()
    _, artefact = saved(chain_of(load("own_networks:make"), x), own / "cut", x, dropped=["1"])
    assert read_artefact(own / "cut") == artefact
    assert artefact.example == {"": ((3, 8), "float32")}
    umask = os.umask(0o022)
    os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in (own / "cut").iterdir()} == {0o666 & ~umask}, "others may read it too"
    assert example_of(x, 2).shape == (2, 8) and example_of({"a": x}, 1)["a"].shape == (1, 8)


@pytest.mark.parametrize("name", ["x" * 5000, "nothing\0here"])
def test_a_name_that_no_folder_can_have_is_an_unknown_one(name):
    with pytest.raises(ModelError):
        load(name)
