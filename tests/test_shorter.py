"""How a library builds a network with fewer blocks: found where it does, refused where it only looks as if it did."""

import json
from types import SimpleNamespace

import pytest
import torch
from planted import answer, cut, gap

from delayer.cutting import plan_by_hand
from delayer.errors import DelayerWarning, ModelError
from delayer.families import chain_of
from delayer.libraries import library, quiet
from delayer.network.blocks import Block, Family
from delayer.network.chain import Chain
from delayer.store import Source, load, save, source_of
from delayer.store.probes import beyond_windows, continuation, written_by
from delayer.store.shorter import NotOrdinary, Shortening, Shorter
from delayer.store.shorter.huggingface import spelled_out_anew
from delayer.store.shorter.likeness import difference
from delayer.store.shorter.lists import lists_of

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def made(kind: str, config: str, **arguments) -> Chain:
    """The chain of a network of transformers with random weights, large enough to show what a block does."""
    transformers = library("transformers", "text")
    torch.manual_seed(0)
    with quiet(transformers):
        model = getattr(transformers, kind)(getattr(transformers, config)(**arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return chain_of(model, {"input_ids": ids()})


def ids(length: int = 8) -> torch.Tensor:
    return torch.randint(5, 96, (2, length), generator=torch.Generator().manual_seed(1))


def without(chain: Chain, *gone: int) -> Shorter:
    return Shortening(chain, source_of(chain.model)).without(gone)


def saved(chain: Chain, folder, *gone: int):
    small = cut(chain, [str(block) for block in gone])
    plan = plan_by_hand(chain, [], operator="drop").model_copy(update={"edits": small.delayer_edits})
    inputs = {"input_ids": ids()}
    return small, save(small, plan, chain, folder, example=inputs)


# -- counts, lists and numbers ------------------------------------------------------------------------------------------


def test_first_dense_layers_are_counted_anew(tmp_path):
    chain = made(
        "DeepseekV3ForCausalLM", "DeepseekV3Config",
        **TINY | {"first_k_dense_replace": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 16, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 8},
    )  # fmt: skip
    assert without(chain, 4).config["first_k_dense_replace"] == 2
    assert without(chain, 1).config["first_k_dense_replace"] == 1
    small, artefact = saved(chain, tmp_path / "cut", 1, 4)
    assert "DeepseekV3ForCausalLM" in artefact.ordinary, artefact.ordinary_note
    again = library("transformers", "text").AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
    assert gap(answer(again.eval(), {"input_ids": ids()}), answer(small, {"input_ids": ids()})) < 1e-5


def test_numbers_of_dense_layers_move_with_them():
    chain = made(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig",
        **TINY | {"mlp_only_layers": [1, 4], "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16},
    )  # fmt: skip
    assert without(chain, 2).config["mlp_only_layers"] == [1, 3]
    assert without(chain, 0, 4).config["mlp_only_layers"] == [0]


def test_kinds_of_layers_go_with_their_layers(tmp_path):
    kinds = ["sliding_attention", "full_attention"] * 3
    chain = made("Gemma2ForCausalLM", "Gemma2Config", **TINY | {"head_dim": 8, "sliding_window": 4, "layer_types": kinds})
    short = without(chain, 1)
    assert short.config["layer_types"] == [kinds[k] for k in (0, 2, 3, 4, 5)] and short.config["num_hidden_layers"] == 5
    small, artefact = saved(chain, tmp_path / "cut", 1)
    assert artefact.ordinary, artefact.ordinary_note
    stated = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert stated["layer_types"] == short.config["layer_types"]
    again = load(str(tmp_path / "cut"))
    long = {"input_ids": ids(32)}
    assert gap(answer(again, long), answer(small, long)) < 1e-5
    assert torch.equal(continuation(again, long), continuation(small, long))


def test_a_window_that_short_inputs_do_not_show_is_seen():
    """ModernBERT looks at everything in every third layer: without layer 1 a kind for each tells what is left."""
    arguments = TINY | {"global_attn_every_n_layers": 3, "local_attention": 4, "num_hidden_layers": 7}
    chain = made("ModernBertForMaskedLM", "ModernBertConfig", **arguments)
    kinds = chain.model.config.layer_types
    assert kinds[0] == kinds[3] == kinds[6] != kinds[1]
    assert without(chain, 1).config["layer_types"] == [kinds[k] for k in (0, 2, 3, 4, 5, 6)]


def test_an_encoder_and_a_decoder_are_counted_each_for_itself():
    transformers = library("transformers", "text")
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=96, d_model=32, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64,
    )  # fmt: skip
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(6)}
    chain = chain_of(transformers.BartForConditionalGeneration(config).eval(), inputs)
    paths = [block.path for block in chain.blocks]
    gone = [paths.index("model.encoder.layers.1"), paths.index("model.decoder.layers.0"), paths.index("model.decoder.layers.2")]
    short = without(chain, *gone)
    assert (short.config["encoder_layers"], short.config["decoder_layers"]) == (3, 2)


def t5(kind: str = "T5", **sizes: int) -> Chain:
    transformers = library("transformers", "text")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_heads=4, decoder_start_token_id=0, **sizes
    )  # fmt: skip
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(6)}
    return chain_of(getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval(), inputs)


def sides(chain: Chain, *names: str) -> list[int]:
    return [[block.path for block in chain.blocks].index(name.replace(".", ".block.")) for name in names]


def test_a_decoder_s_count_that_follows_an_encoder_s_by_default_stays_its_own():
    chain = t5(num_layers=4)
    short = without(chain, *sides(chain, "encoder.2"))
    assert (short.config["num_layers"], short.config["num_decoder_layers"]) == (3, 4)


@pytest.mark.parametrize(
    ("gone", "counts", "room"),
    [
        (["encoder.2"], (3, 4), 4),
        (["decoder.1"], (4, 3), None),
        (["encoder.3", "decoder.2"], (3, 3), None),
        pytest.param(["encoder.1", "encoder.3", "decoder.1"], (2, 3), 3, marks=pytest.mark.slow),
    ],
)
def test_a_shorter_encoder_leaves_the_decoder_a_cache_for_all_its_layers(gone, counts, room, tmp_path):
    """transformers counts a cache's layers by the encoder's, and would fail at the decoder's last; an entry more tells it."""
    chain = t5(num_layers=4)
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(6)}
    small = cut(chain, [str(block) for block in sides(chain, *gone)])
    plan = plan_by_hand(chain, [], operator="drop").model_copy(update={"edits": small.delayer_edits})
    artefact = save(small, plan, chain, tmp_path / "cut", example=inputs)
    assert "T5ForConditionalGeneration" in artefact.ordinary, artefact.ordinary_note
    stated = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert (stated["num_layers"], stated["num_decoder_layers"]) == counts and stated.get("decoder_layers") == room
    again = library("transformers", "text").AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "cut").eval()
    assert gap(answer(again, inputs), answer(small, inputs)) < 1e-5
    for use_cache in (True, False):
        texts = [
            model.generate(input_ids=ids(), max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=use_cache)
            for model in (again, small)
        ]
        assert texts[0].shape == (2, 7) and torch.equal(*texts)


def test_the_block_that_owns_the_positions_of_all_stays():
    chain = t5(num_layers=3)
    kept = {block.path: block.stays for block in chain.blocks if not block.removable}
    assert set(kept) == {"encoder.block.0", "decoder.block.0"}
    assert "which it computes itself" in kept["encoder.block.0"]


def test_a_configuration_that_builds_another_network_is_no_ground():
    transformers = library("transformers", "text")
    config = transformers.LlamaConfig(**TINY)
    chain = chain_of(transformers.LlamaForCausalLM(config).eval(), {"input_ids": ids()})
    chain.model.config.num_hidden_layers = 7
    with pytest.raises(NotOrdinary, match="its configuration builds another network than it is"):
        without(chain, 1)


def test_a_count_that_two_lists_share_cannot_tell_two_lengths():
    from transformers import PreTrainedConfig, PreTrainedModel

    class Config(PreTrainedConfig):
        num_layers: int = 4

    class Towers(PreTrainedModel):
        config_class = Config

        def __init__(self, config):
            super().__init__(config)
            self.left, self.right = (
                torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(config.num_layers)) for _ in range(2)
            )
            self.post_init()

    model = Towers(Config())
    paths = [f"{side}.{k}" for side in ("left", "right") for k in range(4)]
    blocks = [Block(path, "Linear", k, k + 1, 4, 4, 1, True, 0) for k, path in enumerate(paths)]
    chain = Chain(model, Family("own", (), "", -1, "mean"), blocks)
    source = Source(kind="huggingface", name="towers", model_class="Towers")
    assert Shortening(chain, source).without({0, 5}).config["num_layers"] == 3
    with pytest.raises(NotOrdinary, match="another list share one count, num_layers, and would differ in length"):
        Shortening(chain, source).without({0, 1, 5})


def test_numbers_that_depend_on_a_place_are_no_ordinary_ones():
    chain = made("DiffLlamaForCausalLM", "DiffLlamaConfig", **TINY)
    assert without(chain, 5).config["num_hidden_layers"] == 5
    with pytest.raises(NotOrdinary, match=r"layers\.2\.self_attn has lambda_init="):
        without(chain, 1)


class Alternating(torch.nn.Module):
    """Blocks that look at a window or at everything in turn, which nothing but a switch says."""

    def __init__(self, num: int):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(num))
        for index, block in enumerate(self.blocks):
            block.layer_idx, block.place, block.sliding, block.shift = index, index, index % 2 == 1, index % 2


@pytest.mark.parametrize("gone", [0, 3])
def test_a_switch_or_a_shift_is_no_number_of_a_block(gone):
    """The block behind the first is the first then, and its switch, 1, must not pass for its number."""
    blocks = [Block(f"blocks.{k}", "Linear", k, k + 1, 2, 2, 1, True, 0) for k in range(4)]
    chain = Chain(Alternating(4), Family("own", (), "", -1, "mean"), blocks)
    found = difference(chain.model, Alternating(3), lists_of(chain, {gone}))
    assert found == ("" if gone == 3 else "blocks.1 has sliding=False then, not True")


def rwkv() -> torch.nn.Module:
    transformers = library("transformers", "text")
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 32, "attention_hidden_size": 32, "intermediate_size": 64, "context_length": 64}
    model = transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes, num_hidden_layers=5, rescale_every=2)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0) if parameter.any() else parameter.normal_(0, 0.3)
    return model


def test_a_recurrent_network_that_halves_its_weights_keeps_them_and_is_cut_saved_and_opened(tmp_path):
    """RWKV's weights in memory would be others after the first answer, and be halved again where they are opened."""
    model, inputs = rwkv(), {"input_ids": ids(10)}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(**inputs).logits
    assert not torch.equal(weights["rwkv.blocks.4.attention.output.weight"], model.rwkv.blocks[4].attention.output.weight)
    with pytest.warns(DelayerWarning, match="halves its weights every 2 blocks for half precision; that is left out"):
        chain = chain_of(model, inputs)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    assert gap(answer(model, inputs), expected) < 1e-5
    small, artefact = saved(chain, tmp_path / "cut", 1, 3)
    assert "RwkvForCausalLM" in artefact.ordinary, artefact.ordinary_note
    again = library("transformers", "text").AutoModelForCausalLM.from_pretrained(tmp_path / "cut").eval()
    for opened in (again, load(str(tmp_path / "cut"))):
        assert gap(answer(opened, inputs), answer(small, inputs)) < 1e-5
        assert torch.equal(continuation(opened, inputs), continuation(small, inputs))
    with torch.no_grad():
        first = small(inputs["input_ids"][:, :6], use_cache=True)
        rest = small(inputs["input_ids"][:, 6:], state=first.state, use_cache=True)
    assert gap(rest.logits, answer(small, inputs)[:, 6:]) < 1e-5, "read in two parts, with the state in between"
    with pytest.raises(NotOrdinary, match="pre_ln is there then"):
        without(chain, 0)


def test_no_kernel_is_fetched_while_a_network_is_built():
    transformers = library("transformers", "text")
    from transformers.integrations import hub_kernels

    before = hub_kernels.get_kernel
    with quiet(transformers), quiet(transformers), pytest.raises(ImportError, match="fetches no kernels"):
        hub_kernels.get_kernel("kernels-community/rwkv", version=1)
    assert hub_kernels.get_kernel is before


# -- timm -----------------------------------------------------------------------------------------------------------------


def test_a_timm_network_made_elsewhere_tells_its_arguments(tmp_path):
    timm = library("timm", "vision")
    torch.manual_seed(0)
    model = timm.create_model("deit3_small_patch16_224", img_size=32, embed_dim=32, num_heads=4, depth=4, num_classes=7).eval()
    assert source_of(model).config | {"num_classes": 7} == source_of(model).config
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    chain = chain_of(model, x)
    small = cut(chain, ["1"])
    plan = plan_by_hand(chain, [], operator="drop").model_copy(update={"edits": small.delayer_edits})
    artefact = save(small, plan, chain, tmp_path / "cut", example=x)
    assert artefact.ordinary.startswith("timm"), artefact.ordinary_note
    again = timm.create_model(f"local-dir:{tmp_path / 'cut'}", pretrained=True).eval()
    assert len(again.blocks) == 3 and gap(again(x), small(x)) < 1e-5


def test_a_timm_network_with_unknown_arguments_is_refused():
    timm = library("timm", "vision")
    model = timm.create_model("mixer_s32_224", img_size=64)
    assert source_of(model).config["img_size"] == (64, 64)
    model.head = torch.nn.Linear(512, 3)
    with pytest.raises(ModelError, match=r"the arguments that it was built with cannot be told from it"):
        source_of(model)


def test_an_architecture_with_a_fixed_number_of_blocks_says_so():
    timm = library("timm", "vision")
    model = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
    chain = chain_of(model, torch.zeros(2, 3, 64, 64))
    block = next(i for i, block in enumerate(chain.blocks) if block.removable)
    with pytest.raises(NotOrdinary, match="with a fixed number of blocks, which no argument changes"):
        without(chain, block)


def test_kinds_that_are_told_in_runs_are_told_anew():
    """GPT-Neo's configuration says the kinds of its layers twice, and believes the list."""
    whole = {"kinds": [[["a", "b"], 3]], "layers": ["a", "b"] * 3, "other": [["a", 2]], "num": 6}
    short = {**whole, "layers": ["a", "b", "b", "a", "b"], "num": 5}
    assert spelled_out_anew(whole, short) == {**short, "kinds": [[["a"], 1], [["b"], 2], [["a"], 1], [["b"], 1]]}
    assert spelled_out_anew(whole, whole) == whole


# -- what a proof runs ----------------------------------------------------------------------------------------------------


def test_a_proof_reads_more_tokens_than_a_window_holds():
    config = SimpleNamespace(to_dict=lambda: {"sliding_window": 16, "max_position_embeddings": 512, "vocab_size": 50})
    model = torch.nn.Linear(2, 2)
    model.config = config
    found = beyond_windows(model, {"input_ids": ids()})
    assert found["input_ids"].shape == (1, 34) and int(found["input_ids"].max()) < 50
    config.to_dict = lambda: {"sliding_window": None, "max_position_embeddings": 512, "vocab_size": 50}
    assert beyond_windows(model, {"input_ids": ids()}) is None
    assert beyond_windows(model, torch.zeros(2, 3)) is None


def test_what_keeps_a_network_from_writing_is_known_by_its_reason():
    """This configuration of transformers' own has a cache of three layers for four; plain token numbers are a prompt, too."""
    assert "IndexError" in written_by(t5(num_layers=3, num_decoder_layers=4).model, {"input_ids": ids()})
    assert written_by(torch.nn.Linear(2, 2), torch.zeros(2, 2)) == "it does not generate"
    written = written_by(t5(num_layers=2).model, ids())
    assert torch.is_tensor(written) and written.shape[0] == 2
