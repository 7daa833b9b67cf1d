"""Whatever people bring: weights with the names of wrappers, in several files, in pickles; wrapped and quantised networks."""

import argparse
import json
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from planted import BY_NAME, answer, gap
from safetensors.torch import load_file, save_file
from tiny import Digits, network
from torch import nn

from delayer.errors import DelayerWarning, ModelError, WeightsError
from delayer.families import chain_of
from delayer.network.wrapped import unwrapped
from delayer.store import load
from delayer.store.names import mended_names
from delayer.store.shards import files_of
from delayer.store.weights import read_weights

NAME = "tests.tiny:network"
STATE = network().state_dict()


def renamed(front: str = "", inside: str = "") -> dict[str, torch.Tensor]:
    """The weights under other names, and other numbers than a new network has."""
    return {front + key.replace("blocks.1.", f"blocks.1.{inside}"): value + 1 for key, value in STATE.items()}


def same(model: nn.Module) -> bool:
    return all(torch.equal(value, STATE[key] + 1) for key, value in model.state_dict().items())


# -- names that wrappers put before names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "inside", "said"),
    [
        ("module.", "", "without module. in"),
        ("model.", "", "without model. in"),
        ("_orig_mod.", "", "without _orig_mod. in"),
        ("module._orig_mod.", "", "without module. and _orig_mod. in"),
        ("_orig_mod.module.", "", "without _orig_mod. and module. in"),
        ("model.module.", "_orig_mod.", "without model. and module. and _orig_mod. in"),
        ("", "_orig_mod.", "without _orig_mod. in"),
        ("student.backbone.", "", "without student. and backbone. in"),
    ],
)
def test_names_of_wrappers_are_taken_off_and_said(front, inside, said, tmp_path):
    save_file(renamed(front, inside), str(tmp_path / "w.safetensors"))
    with pytest.warns(DelayerWarning, match=f"w.safetensors fit {said} their names"):
        model = load(NAME, weights=tmp_path / "w.safetensors")
    assert same(model)


def test_names_that_fit_stay_without_a_word(tmp_path):
    save_file(renamed(), str(tmp_path / "w.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(load(NAME, weights=tmp_path / "w.safetensors"))
    own = {"model.layers.0.w", "model.layers.1.w", "head.w"}
    assert mended_names(own, own) == ({name: name for name in own}, "")
    assert mended_names(["x.layers.0.w"], ["else.w"])[1] == ""  # nothing fits better
    # A training's other weights keep their names, and are refused by them.
    given = renamed("model.") | {"criterion.weight": torch.ones(3)}
    save_file(given, str(tmp_path / "lightning.safetensors"))
    with pytest.warns(DelayerWarning), pytest.raises(WeightsError, match=r"1 unknown to the network \(criterion.weight\)"):
        load(NAME, weights=tmp_path / "lightning.safetensors")


def hub(folder: Path) -> nn.Module:
    """A Llama in a folder, and the network."""
    case = BY_NAME["llama"]
    model = case.chain().model.eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("front", ["module.", "model.", "_orig_mod.module."])
def test_a_hub_networks_wrapped_weights_are_mended(front, tmp_path):
    model, inputs = hub(tmp_path / "hub"), BY_NAME["llama"].inputs()
    own = load_file(tmp_path / "hub" / "model.safetensors")
    wrapped = {front + key: value for key, value in own.items()}
    save_file(wrapped, str(tmp_path / "w.safetensors"), metadata={"format": "pt"})
    with pytest.warns(DelayerWarning, match=r"fit without .*\. in their names"):
        again = load(str(tmp_path / "hub"), weights=tmp_path / "w.safetensors")
    assert gap(answer(again, inputs), answer(model, inputs)) < 1e-6
    save_file(wrapped, str(tmp_path / "hub" / "model.safetensors"), metadata={"format": "pt"})
    with pytest.warns(DelayerWarning, match=r"hub fit without .*\. in their names"):
        again = load(str(tmp_path / "hub"))
    assert gap(answer(again, inputs), answer(model, inputs)) < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # names that begin with model. and are meant so
        hub(tmp_path / "hub")
        load(str(tmp_path / "hub"))


# -- weights in several files ------------------------------------------------------------------------------------------


def sharded(folder: Path, **changes: str) -> Path:
    """The network's weights in two files and an index; the index."""
    folder.mkdir(exist_ok=True)
    where = {key: f"model-0000{1 + (k > 9)}-of-00002.safetensors" for k, key in enumerate(renamed())}
    for name in set(where.values()):
        save_file({key: value for key, value in renamed().items() if where[key] == name}, str(folder / name))
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where | changes}))
    return index


def test_an_index_and_a_folder_stand_for_all_their_files(tmp_path):
    index = sharded(tmp_path / "w")
    assert same(load(NAME, weights=index)) and same(load(NAME, weights=tmp_path / "w"))
    model, inputs = hub(tmp_path / "hub"), BY_NAME["llama"].inputs()
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert len(files_of(tmp_path / "parts")) > 1
    for weights in (tmp_path / "parts", tmp_path / "parts" / "model.safetensors.index.json"):
        assert gap(answer(load(str(tmp_path / "hub"), weights=weights), inputs), answer(model, inputs)) < 1e-6


def test_two_files_that_hold_one_tensor_differently_are_refused(tmp_path):
    for name, value in (("x", 1.0), ("y", 2.0)):
        save_file({"a": torch.full((2,), value), name: torch.ones(1)}, str(tmp_path / f"{name}.safetensors"))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "x": "x.safetensors", "y": "y.safetensors"}}))
    with pytest.raises(WeightsError, match="holds a, which another file of .* holds with other values"):
        read_weights(index)


def test_a_damaged_index_is_refused(tmp_path):
    index = sharded(tmp_path / "w", more="../../secret.safetensors")
    with pytest.raises(WeightsError, match="names '../../secret.safetensors', which is no .safetensors file beside it"):
        read_weights(index)
    index = sharded(tmp_path / "w", more="model-00003-of-00003.safetensors")
    with pytest.raises(
        WeightsError, match=r"names 3 files, of which 1 are not there \(model-00003-of-00003.safetensors\). Fetch"
    ):
        read_weights(index)
    index.write_text('{"weight_map": [1]}')
    with pytest.raises(WeightsError, match="names no files"):
        read_weights(index)
    index.write_text("{")
    with pytest.raises(WeightsError, match="index.json"):
        read_weights(index)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no safetensors file. Give the folder that does"):
        read_weights(empty)
    for name in ("a", "b"):
        save_file(STATE, str(empty / f"{name}.safetensors"))
    with pytest.raises(WeightsError, match="holds 2 weights .a.safetensors, b.safetensors.. Name the one"):
        read_weights(empty)


# -- pickles: never opened, and the recipe works -------------------------------------------------------------------------

NESTED = {
    "flat": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1), "best": torch.tensor(0.9)},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.3},
    "ema": lambda state: {"model": {key: 0 * value for key, value in state.items()}, "ema": state},
    "deep": lambda state: {"model": {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 1}},
}


@pytest.mark.parametrize("how", NESTED)
def test_the_very_recipe_that_is_printed_converts_a_pickle(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = renamed()
    state["blocks.1.norm.weight"] = state["blocks.0.norm.weight"]  # shared, as tied weights are, which save_file refuses
    torch.save(NESTED[how](state), "it's.pth")
    with pytest.raises(WeightsError, match="is a pickle .* reads safetensors only. Convert it") as caught:
        load(NAME, weights="it's.pth")
    lines = str(caught.value)
    code = lines[lines.index("import argparse") : lines.index("\nIf torch refuses")]
    exec(compile(code, "recipe", "exec"), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DelayerWarning)  # module. is taken off
        assert torch.equal(load(NAME, weights="weights.safetensors").head.weight, STATE["head.weight"] + 1)


def test_a_folder_with_a_pickle_alone_gives_the_recipe_for_it(tmp_path):
    model, inputs = hub(tmp_path / "hub"), BY_NAME["llama"].inputs()
    (tmp_path / "hub" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "hub" / "pytorch_model.bin")
    with pytest.raises(
        WeightsError, match="delayer never opens pickles; convert the weights to safetensors, in Python:"
    ) as caught:
        load(str(tmp_path / "hub"))
    text = str(caught.value)
    exec(compile(text[text.index("import argparse") :], "recipe", "exec"), {})
    assert gap(answer(load(str(tmp_path / "hub")), inputs), answer(model, inputs)) < 1e-6


# -- wrapped networks --------------------------------------------------------------------------------------------------

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compile", "parallel"])
def test_a_wrapper_is_taken_off_and_said(wrap):
    model = network()
    with pytest.warns(DelayerWarning, match="is taken off: delayer cuts the Digits inside, which shares its weights"):
        chain = chain_of(wrap(model), X)
    assert chain.model is model and chain.num_blocks == 6


def test_compiled_parts_are_taken_off_a_copy_of_the_same_weights():
    model = network()
    plain = answer(model, X)
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    with pytest.warns(DelayerWarning, match="1 compiled parts is taken off"):
        chain = chain_of(model, X)
    assert type(chain.model) is Digits and chain.num_blocks == 6 and "_orig_mod" not in str(chain.model)
    assert type(model.blocks[1]).__name__ == "OptimizedModule"  # the user's own stays as it was
    assert chain.model.head.weight is model.head.weight
    assert gap(answer(chain.model, X), plain) == 0


def compiled() -> nn.Module:
    return torch.compile(network(), backend="eager")


def test_a_factory_may_give_a_wrapped_network(tmp_path):
    sys.modules["wraps"] = types.ModuleType("wraps")
    sys.modules["wraps"].make = compiled
    save_file(renamed(), str(tmp_path / "w.safetensors"))
    with pytest.warns(DelayerWarning, match="OptimizedModule is taken off"):
        assert same(load("wraps:make", weights=tmp_path / "w.safetensors"))


def adapted(merges: bool = True) -> nn.Module:
    """A network with an adapter, by classes that say that they come from peft and merge as its do."""

    class Lora(nn.Module):
        def __init__(self, base: nn.Linear):
            super().__init__()
            self.base_layer, self.delta = base, nn.Parameter(torch.full_like(base.weight, 0.1))

        def forward(self, x):
            return self.base_layer(x) + x @ self.delta.T

    class PeftModel(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.base_model = model

        def forward(self, x):
            return self.base_model(x)

        def merge_and_unload(self):
            if not merges:
                raise ValueError("prompts cannot be merged")
            lora = self.base_model.head
            lora.base_layer.weight.data += lora.delta
            self.base_model.head = lora.base_layer
            return self.base_model

    for kind in (Lora, PeftModel):
        kind.__module__ = "peft.made_up"
    model = network()
    model.head = Lora(model.head)
    return PeftModel(model)


def test_adapters_are_merged_into_a_copy_and_said():
    model = adapted().eval()
    expected = answer(model, X)
    with pytest.warns(DelayerWarning, match="adapters of PeftModel are merged into a copy of Digits's weights.*merge_and_unload"):
        chain = chain_of(model, X)
    assert type(chain.model) is Digits and gap(answer(chain.model, X), expected) < 1e-5
    assert gap(answer(model, X), expected) == 0  # and the user's own is as it was
    with pytest.raises(ModelError, match="cannot be merged into its weights .prompts cannot be merged.. Remove them"):
        chain_of(adapted(merges=False), X)
    with pytest.raises(ModelError, match="holds adapters of peft without the PeftModel around it. Merge them first"):
        chain_of(adapted().base_model, X)


def test_adapters_of_the_library_itself_are_merged():
    peft = pytest.importorskip("peft")
    case = BY_NAME["llama"]
    model = peft.get_peft_model(
        case.chain().model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    ).eval()
    expected = answer(model, case.inputs())
    with pytest.warns(DelayerWarning, match="are merged into a copy of LlamaForCausalLM's weights"):
        chain = chain_of(model, case.inputs())
    assert chain.family.name == "Llama" and gap(answer(chain.model, case.inputs()), expected) < 1e-4


# -- quantised networks ------------------------------------------------------------------------------------------------


def test_quantised_networks_are_refused_with_the_way(tmp_path):
    way = "Cut first, quantise after"
    model = network()
    model.blocks[0].inner.weight = nn.Parameter(torch.ones(48, 24, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match=f"is quantised .blocks.0.inner.weight is a Parameter of torch.int8.*{way}"):
        chain_of(model, X)

    class Linear4bit(nn.Linear):
        __module__ = "bitsandbytes.nn.modules"

    model = network()
    model.blocks[3].outer = Linear4bit(48, 24)
    with pytest.raises(ModelError, match=f"blocks.3.outer is a Linear4bit of bitsandbytes.*{way}"):
        chain_of(model, X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
    with pytest.raises(ModelError, match=f"is quantised.*{way}"):
        unwrapped(model)

    hub(tmp_path / "hub")
    path = tmp_path / "hub" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    for trust in (False, True):
        with pytest.raises(ModelError, match=f"hub is a quantised network .quantization_config, gptq.*{way}"):
            load(str(tmp_path / "hub"), trust=trust)
