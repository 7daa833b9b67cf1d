"""Tiny networks of many architectures, each with one block that can be made to change nothing (`zoo_road`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 12


@dataclass(frozen=True)
class Row:
    """One network, and what is true of it."""

    name: str
    make: Callable[[], nn.Module]
    example: Callable[[], Any]
    blocks: str
    """A regular expression for the paths of all that is a block."""
    ends: tuple[str, ...]
    """Ends of paths, inside a block, of the modules and parameters that are zero where the block is to change nothing."""
    k: int = 2
    """Which block changes nothing."""
    opens: str = "transformers"
    """What opens the network without that block: "transformers", "timm", or a part of the reason why only delayer does."""
    library: str = "transformers"
    quick: bool = False
    """Goes the road in the quick suite too."""


# -- how they are made ------------------------------------------------------------------------------------

TEXT = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 48}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {"num_hidden_layers": 5, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48} | {
    "image_size": 32,
    "patch_size": 8,
}
PAIR = {"vocab_size": 96, "d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "max_position_embeddings": 64} | {
    f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in (("attention_heads", 4), ("ffn_dim", 48))
}
T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 4, "num_heads": 4, "decoder_start_token_id": 0}
CONV = {"conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2} | {
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "do_stable_layer_norm": True,
}
TWO = {"num_key_value_heads": 2}
ROWS: list[Row] = []


def hf(name: str, kind: str, config: dict[str, Any], blocks: str, ends: str, example: Callable[[], Any] | None = None, **more):
    """A row of a network of transformers."""

    def make() -> nn.Module:
        import transformers

        network = getattr(transformers, kind)
        settings = {key: _nested(value) for key, value in config.items()}
        return network(network.config_class(**settings))

    ROWS.append(Row(name, make, example or tokens, blocks, tuple(ends.split()), **more))


def _nested(value: Any) -> Any:
    import transformers

    return getattr(transformers, value[0])(**value[1]) if isinstance(value, tuple) else value


def decoder(name: str, kind: str, ends: str, blocks: str = r"model\.layers\.\d+", more: dict[str, Any] | None = None, **row):
    """A row of a decoder, which is named as its configuration's class."""
    hf(name, f"{kind}ForCausalLM", TEXT | SPECIAL | {"max_position_embeddings": 64} | (more or {}), blocks, ends, **row)


def timm(name: str, blocks: str, ends: str, size: int = 64, arguments: dict[str, Any] | None = None, of: str = "", **more):
    """A row of a network of timm."""

    def make() -> nn.Module:
        from delayer.store.originals import load_timm

        return load_timm(of or name, False, arguments or {})

    ROWS.append(Row(name, make, lambda: pixels(size), blocks, tuple(ends.split()), library="timm", **{"opens": "timm"} | more))


def tokens(length: int = 12, count: int = SAMPLES) -> Tensor:
    return torch.randint(5, 96, (count, length), generator=torch.Generator().manual_seed(1))


def pixels(size: int = 32) -> Tensor:
    return torch.randn(SAMPLES, 3, size, size, generator=torch.Generator().manual_seed(1))


def pairs() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(7).flip(1).contiguous()}


def pixel_values(size: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": pixels(size)}


def waves() -> Tensor:
    return torch.randn(SAMPLES, 800, generator=torch.Generator().manual_seed(1))


def words_and_pictures() -> dict[str, Tensor]:
    return {"input_ids": tokens(10), "pixel_values": pixels()}


def spectrum_and_text() -> dict[str, Tensor]:
    return {"input_features": torch.randn(SAMPLES, 16, 48, generator=torch.Generator().manual_seed(1))} | {
        "decoder_input_ids": tokens(6)
    }


# -- decoders -----------------------------------------------------------------------------------------------------------

LLAMA = "self_attn.o_proj mlp.down_proj"
EXPERTS = TWO | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GEMMA = TWO | {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8}
SLIDING = [("full_attention" if k % 6 == 5 else "sliding_attention") for k in range(12)]
decoder(
    "Gemma 3, twelve layers, five sliding to one full",
    "Gemma3",
    LLAMA,
    more=GEMMA | {"num_hidden_layers": 12, "layer_types": SLIDING},
    k=7,
    quick=True,
)
decoder("Gemma 2", "Gemma2", LLAMA, more=GEMMA, k=1)
decoder("Phi", "Phi", "self_attn.dense mlp.fc2")
decoder("GPT-NeoX", "GPTNeoX", "attention.dense mlp.dense_4h_to_h", r"gpt_neox\.layers\.\d+")
decoder("OPT", "OPT", "self_attn.out_proj fc2", r"model\.decoder\.layers\.\d+", {"ffn_dim": 48, "word_embed_proj_dim": 32})
decoder("BLOOM", "Bloom", "self_attention.dense mlp.dense_4h_to_h", r"transformer\.h\.\d+", {"n_layer": 5, "n_head": 4})
decoder("Mixtral", "Mixtral", "self_attn.o_proj mlp.experts.down_proj", more=TWO | {"num_local_experts": 4})
decoder(
    "Qwen2-MoE, one dense layer", "Qwen2Moe", "self_attn.o_proj down_proj", more=EXPERTS | {"mlp_only_layers": [1]}, quick=True
)
decoder(
    "DeepSeek-V3, first layer dense",
    "DeepseekV3",
    "self_attn.o_proj down_proj",
    more={"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
    | {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    | {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_shared_experts": 1},
)
decoder(
    "gpt-oss",
    "GptOss",
    "self_attn.o_proj experts.down_proj experts.down_proj_bias",
    more=TWO | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
)
decoder("Cohere", "Cohere", LLAMA, more=TWO)
decoder("OLMo 2", "Olmo2", "post_attention_layernorm post_feedforward_layernorm", more=TWO)
decoder(
    "LFM2, convolution and attention",
    "Lfm2",
    "conv.out_proj self_attn.out_proj feed_forward.w2",
    more=TWO | {"layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    quick=True,
)
decoder(
    "Bamba",
    "Bamba",
    "mamba.out_proj self_attn.o_proj feed_forward.down_proj",
    more=TWO
    | {"attn_layer_indices": [2], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
    | {"mamba_chunk_size": 4},
    k=1,
)
hf(
    "GPT-Neo, global and local",
    "GPTNeoForCausalLM",
    SPECIAL
    | {"vocab_size": 96, "hidden_size": 32, "num_layers": 6, "attention_types": [[["global", "local"], 3]], "num_heads": 4}
    | {"intermediate_size": 48, "max_position_embeddings": 64, "window_size": 6},
    r"transformer\.h\.\d+",
    "out_proj mlp.c_proj",
)

# -- encoders -----------------------------------------------------------------------------------------------------------

CLASSES = TEXT | {"num_labels": 3, "max_position_embeddings": 64, "pad_token_id": 0}
POST = "attention.output.dense output.dense"
hf("ELECTRA", "ElectraForSequenceClassification", CLASSES | {"embedding_size": 32}, r"electra\.encoder\.layer\.\d+", POST)
hf("MPNet", "MPNetModel", CLASSES, r"encoder\.layer\.\d+", "attention.attn.o output.dense")
hf("XLM-RoBERTa", "XLMRobertaForSequenceClassification", CLASSES, r"roberta\.encoder\.layer\.\d+", POST)
hf(
    "ModernBERT",
    "ModernBertForSequenceClassification",
    CLASSES | {"local_attention": 8, "bos_token_id": 1, "eos_token_id": 2} | {"cls_token_id": 1, "sep_token_id": 2},
    r"model\.layers\.\d+",
    "attn.Wo mlp.Wo",
)
hf(
    "DeBERTa-v2",
    "DebertaV2ForSequenceClassification",
    CLASSES | {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    r"deberta\.encoder\.layer\.\d+",
    POST,
)
hf(
    "XLNet, positions before samples",
    "XLNetForSequenceClassification",
    {"vocab_size": 96, "d_model": 32, "n_layer": 5, "n_head": 4, "d_inner": 48, "num_labels": 3},
    r"transformer\.layer\.\d+",
    "rel_attn.o ff.layer_2",
    quick=True,
)
hf(
    "Funnel",
    "FunnelForSequenceClassification",
    {"vocab_size": 96, "block_sizes": [2, 2, 2], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "num_labels": 3},
    r"funnel\.encoder\.blocks\.\d+\.\d+",
    "attention.post_proj ffn.linear_2",
    k=3,
)

# -- encoders with decoders ---------------------------------------------------------------------------------------------

SEQ2SEQ = "self_attn.out_proj encoder_attn.out_proj fc2"
T5_ENDS = "SelfAttention.o EncDecAttention.o DenseReluDense.wo"
SIDES = r"model\.(encoder|decoder)\.layers\.\d+"
hf(
    "T5, a block of the decoder",
    "T5ForConditionalGeneration",
    T5,
    r"(encoder|decoder)\.block\.\d+",
    T5_ENDS,
    pairs,
    k=6,
    quick=True,
)
hf("T5, a block of the encoder", "T5ForConditionalGeneration", T5, r"(encoder|decoder)\.block\.\d+", T5_ENDS, pairs, k=2)
hf("mT5's encoder", "MT5EncoderModel", T5, r"encoder\.block\.\d+", T5_ENDS)
hf(
    "Whisper",
    "WhisperForConditionalGeneration",
    PAIR
    | SPECIAL
    | {"num_mel_bins": 16, "max_source_positions": 24, "max_target_positions": 32, "decoder_start_token_id": 1}
    | {"suppress_tokens": [], "begin_suppress_tokens": []},
    SIDES,
    SEQ2SEQ,
    spectrum_and_text,
    k=6,
)

# -- pictures, sound, and several inputs ----------------------------------------------------------------------------------

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
VIT = "attention.output.dense output.dense o_proj mlp.fc2"
hf("CLIP's pictures", "CLIPVisionModel", IMAGE, r"(vision_model\.)?encoder\.layers\.\d+", "self_attn.out_proj mlp.fc2", pixels)
hf(
    "CLIP, both towers",
    "CLIPModel",
    {"text_config": TOWER | SPECIAL | {"vocab_size": 96, "num_hidden_layers": 4, "max_position_embeddings": 32}}
    | {"vision_config": TOWER | {"num_hidden_layers": 5, "image_size": 32, "patch_size": 8}, "projection_dim": 16},
    r"(text|vision)_model\.(encoder\.)?layers\.\d+",
    "self_attn.out_proj mlp.fc2",
    words_and_pictures,
    k=6,
    quick=True,
)
hf("BEiT", "BeitForImageClassification", IMAGE | {"num_labels": 4}, r"beit\.(encoder\.)?layers?\.\d+", VIT, pixels)
hf("ViT-MAE, which draws a mask", "ViTMAEModel", IMAGE, r"(encoder\.)?layers?\.\d+", VIT, pixels)
hf("DINOv2", "Dinov2ForImageClassification", IMAGE | {"num_labels": 4}, r"dinov2\.(encoder\.)?layers?\.\d+", VIT, pixels)
hf(
    "ConvNeXt",
    "ConvNextForImageClassification",
    {"hidden_sizes": [16, 24, 32, 40], "depths": [2, 2, 4, 2], "num_labels": 4},
    r"convnext\.encoder\.stages\.\d+\.layers\.\d+",
    "pwconv2 layer_scale_parameter",
    lambda: pixels(64),
    k=6,
)
hf(
    "Swin v2",
    "Swinv2ForImageClassification",
    {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2, 4], "num_heads": [2, 2, 4], "window_size": 4}
    | {"num_labels": 4},
    r"swinv2\.encoder\.layers\.\d+\.blocks\.\d+",
    "layernorm_before layernorm_after",
    lambda: pixels(64),
    k=5,
)
hf(
    "SegFormer, a segmenter",
    "SegformerForSemanticSegmentation",
    {"hidden_sizes": [8, 16, 16, 24], "depths": [2, 2, 3, 2], "num_attention_heads": [1, 2, 2, 2], "decoder_hidden_size": 16}
    | {"num_labels": 4},
    r"segformer\..*\d+\.(layers?|blocks?)\.\d+",
    "o_proj fc2",
    lambda: pixels(64),
    k=5,
)
hf(
    "DETR, a detector",
    "DetrForObjectDetection",
    PAIR
    | {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "num_queries": 6, "num_labels": 4}
    | {
        "backbone_config": (
            "ResNetConfig",
            {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
            | {"layer_type": "basic", "out_features": ["stage4"]},
        )
    },
    SIDES,
    "o_proj mlp.fc2",
    pixel_values(64),
    k=1,
    quick=True,
)
hf(
    "HuBERT, sound",
    "HubertForSequenceClassification",
    TEXT | CONV | {"num_labels": 3},
    r"hubert\.encoder\.layers\.\d+",
    "attention.out_proj feed_forward.output_dense",
    waves,
)

# -- timm ---------------------------------------------------------------------------------------------------------------

SMALL = {"img_size": 64, "embed_dim": 64, "num_heads": 4, "depth": 6}
timm("deit3_small_patch16_224", r"blocks\.\d+", "attn.proj mlp.fc2", arguments=SMALL, k=3)
timm("beit_base_patch16_224", r"blocks\.\d+", "attn.proj mlp.fc2", arguments=SMALL, k=3)
timm("cait_xxs24_224", r"blocks(_token_only)?\.\d+", "attn.proj mlp.fc2", arguments=SMALL | {"embed_dim": 48}, k=3)
timm(
    "convnext_atto",
    r"stages\.\d+\.blocks\.\d+",
    "mlp.fc2 gamma",
    arguments={"depths": (2, 2, 4, 2), "dims": (8, 16, 24, 32)},
    k=6,
    quick=True,
)
timm("efficientnet_b0", r"blocks\.\d+\.\d+", "bn3", k=10, opens="with a fixed number of blocks")
timm("mobilenetv3_small_100", r"blocks\.\d+\.\d+", "bn3", k=5, opens="with a fixed number of blocks")
timm("pvt_v2_b0", r"stages\.\d+\.blocks\.\d+", "attn.proj mlp.fc2", k=3)
