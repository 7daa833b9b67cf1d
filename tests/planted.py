"""Small networks of every family with planted identity blocks, for laws that must hold for each.

A planted block ends its residual branches in zeros, so that it hands on exactly what it got. All other weights are
drawn at the size of trained ones: taking any other block out shows.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from delayer.cutting import Plan, apply_, plan_by_hand
from delayer.families import chain_of
from delayer.network.calling import call, evaluating, output_of
from delayer.network.chain import Chain


@dataclass(frozen=True)
class Case:
    """One network of a family, and what is true of it."""

    name: str
    family: str
    source: str
    """What `delayer.load` takes: timm:NAME or planted:FACTORY; for Hugging Face the name of the class."""
    arguments: dict[str, Any]
    """For timm or the factory; for Hugging Face the configuration."""
    inputs: Callable[[], Any]
    plant_: Callable[[nn.Module], None]
    """Makes a block the identity."""
    segments: tuple[tuple[int, int], ...]
    planted: tuple[int, ...]
    kept: int
    """A removable block whose loss must show."""
    ordinary: bool = False
    """Dropping the planted blocks leaves a checkpoint for the library's own loader."""
    decoder: bool = False
    before_: Callable[[nn.Module], None] = field(default=lambda model: None)
    """What planting asks of the rest of the network."""

    def build(self) -> nn.Module:
        """The network with lively weights, nothing planted yet."""
        if self.source.startswith("timm:"):
            import timm

            model = timm.create_model(self.source[5:], **self.arguments)
        elif self.source.startswith("planted:"):
            model = globals()[self.source[8:]](**self.arguments)
        else:
            import transformers

            kind = getattr(transformers, self.source)
            model = kind(kind.config_class(**self.arguments))
        enliven_(model)
        return model.eval()

    def chain(self) -> Chain:
        """The planted network's chain."""
        model = self.build()
        chain = chain_of(model, self.inputs())
        self.before_(model)
        for index in self.planted:
            self.plant_(chain.module(index))
        return chain

    @property
    def spans(self) -> list[str]:
        """The planted blocks as spans, neighbours of one segment together."""
        starts = [first for first, _ in self.segments]
        found: list[list[int]] = []
        for i in self.planted:
            if found and found[-1][1] == i and i not in starts:
                found[-1][1] = i + 1
            else:
                found.append([i, i + 1])
        return [f"{start}:{stop}" for start, stop in found]

    def write(self, model: nn.Module, folder: Path) -> dict[str, Any]:
        """Save the whole network as its library would, and get the arguments with which `delayer.load` opens it."""
        if not self.source.startswith(("timm:", "planted:")):
            from delayer.libraries import library, quiet

            with quiet(library("transformers", "text")):
                model.save_pretrained(folder / "original")
            return {"name": str(folder / "original")}
        save_file(model.state_dict(), str(folder / "original.safetensors"))
        return {"name": self.source, "weights": folder / "original.safetensors", **self.arguments}


def enliven_(model: nn.Module, seed: int = 0) -> None:
    """Draw weights as large as trained ones: matrices keep the size of what passes, norms scale unevenly."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            noise = torch.randn(tensor.shape, generator=draw)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif name.endswith(("bias", "running_mean")) and tensor.ndim == 1:
                tensor.copy_(0.1 * noise)
            elif tensor.ndim > 1 and isinstance(tensor, nn.Parameter):
                tensor.copy_(noise * math.sqrt(2 / math.prod(tensor.shape[1:])))
            elif isinstance(tensor, nn.Parameter):
                tensor.copy_(1 + 0.2 * noise)


def zeros(*ends: str) -> Callable[[nn.Module], None]:
    """Plants by zeroing the modules in which a block's residual branches end."""

    def plant_(block: nn.Module) -> None:
        found = [m for path, m in block.named_modules() if any(re.fullmatch(end, path) for end in ends)]
        assert len(found) == len(ends), f"{ends} are not all in {block}"
        for module in found:
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    return plant_


def even_norms_(model: nn.Module) -> None:
    """Every norm scales and shifts all features alike, so that a norm of a norm can be the identity."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.constant_(module.weight, 1.3)
            nn.init.constant_(module.bias, 0.2)


def plant_post_norm_(block: nn.Module) -> None:
    """The first norm takes away what the previous block's norm put on, the second puts it on again."""
    zeros(r"attention\.output\.dense", r"output\.dense")(block)
    nn.init.ones_(block.attention.output.LayerNorm.weight)
    nn.init.zeros_(block.attention.output.LayerNorm.bias)


def plant_distilbert_(block: nn.Module) -> None:
    """The same, by the names that DistilBERT has for it."""
    zeros(r"attention\.out_lin", r"ffn\.lin2")(block)
    nn.init.ones_(block.sa_layer_norm.weight)
    nn.init.zeros_(block.sa_layer_norm.bias)


def plant_dirac_(block: nn.Module) -> None:
    """A convolution that hands on each channel."""
    nn.init.dirac_(block.weight)
    nn.init.zeros_(block.bias)


# -- asking and cutting ----------------------------------------------------------------------------------------------


def answer(model: nn.Module, inputs) -> Tensor:
    with evaluating(model):
        return output_of(call(model, inputs))


def gap(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def cut(chain: Chain, dropped=(), mapped=()) -> nn.Module:
    """A copy without some spans, and with an identity map in the place of others."""
    plans = [plan_by_hand(chain, spans, operator=operator) for spans, operator in ((dropped, "drop"), (mapped, "affine"))]
    both = plans[0].model_copy(update={"edits": plans[0].edits + plans[1].edits})
    copy = chain.copy()
    return apply_(copy, Plan.model_validate(both.model_dump()))  # with nothing to fit on: shapes, which are identities


# -- networks of other libraries whose builders are no plain names ------------------------------------------------


def torchvision_resnet() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [4, 2, 1, 1], num_classes=5, width_per_group=4)


def torchvision_mobilenet() -> nn.Module:
    from torchvision.models import mobilenet_v2

    stages = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 2, 1]]  # expansion, width, blocks, stride
    return mobilenet_v2(width_mult=0.25, num_classes=5, inverted_residual_setting=stages)


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 4, 4, 2, 16, 32, num_classes=5)


def torchvision_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 8, [2, 4], [2, 2], [2, 2], num_classes=5)


def torchvision_vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    with torch.device("meta"):  # its own classifier has a hundred million weights
        model = VGG(nn.Identity(), init_weights=False)
    model.features = make_layers([16, 16, 16, 16, "M", 32, 32, "M"])
    model.classifier = nn.Sequential(nn.Linear(32 * 49, 5))
    return model


def timm_mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=5, img_size=16, patch_size=4, num_blocks=5, embed_dim=12)


# -- networks of nobody's library ----------------------------------------------------------------------------------


class Residual(nn.Module):
    """x + W₂ relu(W₁ x)."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.fc1(x).relu())


class TwoResults(Residual):
    """As attention layers do: the hidden state, and something to look at."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x), self.fc1(x)


class Stage(nn.Module):
    """Blocks in a list of their own, then a change of width."""

    def __init__(self, width: int, num_blocks: int):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(width) for _ in range(num_blocks))
        self.widen = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.widen(x)


class Stages(nn.Module):
    """Stages in a list, blocks in theirs."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([Stage(8, 3), Stage(16, 4)])
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


class Positions(nn.Module):
    """The parent adds positions, in place, before the third block: blocks 1 and 2 are no neighbours."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(8) for _ in range(5))
        self.positions = nn.Parameter(torch.zeros(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        for i, block in enumerate(self.blocks):
            if i == 2:
                x += self.positions
            x = block(x)
        return x.mean(1)


class Unpacking(nn.Module):
    """Blocks give two results, and the parent takes both."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(TwoResults(8) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x)
        return x


class Keywords(nn.Module):
    """Blocks are called by keyword."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(8) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x=x)
        return x


class Signal(nn.Module):
    """x + W₂ * relu(W₁ * x) over time."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv1d(width, width, 3, padding=1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.fc1(x).relu())


class Signals(nn.Module):
    """Channels first, time last."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(Signal(6) for _ in range(5)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).mean(2)


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), *(Residual(8) for _ in range(5)), nn.ReLU(), nn.Linear(8, 3))


# -- inputs ---------------------------------------------------------------------------------------------------------


def normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def pixels(size: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": normal(2, 3, size, size)()}


def left_padded() -> dict[str, Tensor]:
    ids = torch.randint(3, 64, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def right_padded() -> dict[str, Tensor]:
    return {name: value.flip(1) for name, value in left_padded().items()}


# -- the table ------------------------------------------------------------------------------------------------------

SIX = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = SIX | {"image_size": 16, "patch_size": 4, "num_labels": 5}
TEXT = SIX | {"vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0}
DECODER = TEXT | {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": None}
TIMM_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 6, "num_heads": 2, "num_classes": 5}
SPREAD = {"segments": ((0, 6),), "planted": (0, 2, 3, 5), "kept": 4}
MIDDLE = {"segments": ((0, 5),), "planted": (0, 2, 3), "kept": 1}
LLAMA = {
    "family": "Llama",
    "inputs": left_padded,
    "plant_": zeros(r"self_attn\.o_proj", r"mlp\.down_proj"),
    "ordinary": True,
    "decoder": True,
} | SPREAD
BERT = {"family": "BERT", "inputs": right_padded, "plant_": plant_post_norm_, "before_": even_norms_, "ordinary": True} | SPREAD
HF_VIT = {"family": "Hugging Face ViT", "arguments": IMAGE, "inputs": pixels(16), "ordinary": True} | SPREAD
VIT = {
    "family": "timm ViT",
    "arguments": TIMM_VIT,
    "inputs": normal(2, 3, 16, 16),
    "ordinary": True,
    "plant_": zeros(r"attn\.proj", r"mlp\.fc2"),
} | SPREAD
OWN = {"family": "automatic", "arguments": {}, "plant_": zeros("fc2")} | MIDDLE

CASES = [
    Case(name="timm-vit", source="timm:vit_tiny_patch16_224", **VIT),
    Case(name="timm-deit-distilled", source="timm:deit_tiny_distilled_patch16_224", **VIT),
    Case(name="timm-dinov2", source="timm:vit_small_patch14_dinov2", **VIT),
    Case(
        name="timm-swin",
        family="timm Swin",
        source="timm:swin_tiny_patch4_window7_224",
        arguments={
            "img_size": 16,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": (2, 4),
            "num_heads": (2, 2),
            "window_size": 2,
            "num_classes": 5,
        },
        inputs=normal(2, 3, 16, 16),
        plant_=zeros(r"attn\.proj", r"mlp\.fc2"),
        segments=((0, 2), (2, 6)),
        planted=(3, 4),
        kept=1,
        ordinary=True,
    ),
    Case(
        name="timm-resnet",
        family="timm ResNet",
        source="timm:resnet18",
        arguments={"layers": (4, 3, 1, 1), "channels": (8, 16, 16, 16), "num_classes": 5},
        inputs=normal(2, 3, 32, 32),
        plant_=zeros("bn2"),
        segments=((1, 4), (5, 7)),
        planted=(1, 2, 6),
        kept=5,
        ordinary=True,
    ),
    Case(
        name="timm-mobilenetv2",
        family="timm MobileNetV2",
        source="timm:mobilenetv2_050",
        arguments={"num_classes": 5},
        inputs=normal(2, 3, 32, 32),
        plant_=zeros("bn3"),
        segments=((2, 3), (4, 6), (7, 10), (11, 13), (14, 16)),
        planted=(2, 8, 9, 15),
        kept=12,
    ),
    Case(
        name="torchvision-resnet",
        family="torchvision ResNet",
        source="planted:torchvision_resnet",
        arguments={},
        inputs=normal(2, 3, 32, 32),
        plant_=zeros("bn3"),
        segments=((1, 4), (5, 6)),
        planted=(2, 3, 5),
        kept=1,
        ordinary=True,
    ),
    Case(
        name="torchvision-mobilenetv2",
        family="torchvision MobileNetV2",
        source="planted:torchvision_mobilenet",
        arguments={},
        inputs=normal(2, 3, 32, 32),
        plant_=zeros(r"conv\.3"),
        segments=((0, 1), (2, 3), (4, 6), (7, 8)),
        planted=(2, 4, 7),
        kept=5,
        ordinary=True,
    ),
    Case(name="hf-vit", source="ViTForImageClassification", plant_=zeros(r"attention\.o_proj", r"mlp\.fc2"), **HF_VIT),
    Case(name="hf-deit", source="DeiTForImageClassification", plant_=zeros(r"attention\.o_proj", r"mlp\.fc2"), **HF_VIT),
    Case(name="hf-dinov2", source="Dinov2ForImageClassification", plant_=zeros(r"layer_scale1", r"layer_scale2"), **HF_VIT),
    Case(
        name="hf-swin",
        family="Hugging Face Swin",
        source="SwinForImageClassification",
        arguments={
            "embed_dim": 8,
            "depths": [2, 4],
            "num_heads": [2, 2],
            "window_size": 2,
            "image_size": 16,
            "patch_size": 2,
            "num_labels": 5,
        },
        inputs=pixels(16),
        plant_=zeros(r"attention\.o_proj", r"mlp\.fc2"),
        segments=((0, 2), (2, 6)),
        planted=(3, 4),
        kept=1,
        ordinary=True,
    ),
    Case(
        name="hf-resnet",
        family="Hugging Face ResNet",
        source="ResNetForImageClassification",
        arguments={"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [4, 3], "layer_type": "basic", "num_labels": 5},
        inputs=pixels(32),
        plant_=zeros(r"layer\.1\.normalization"),
        segments=((0, 4), (5, 7)),
        planted=(1, 2, 6),
        kept=5,
        ordinary=True,
    ),
    Case(
        name="hf-mobilenetv2",
        family="Hugging Face MobileNetV2",
        source="MobileNetV2ForImageClassification",
        arguments={"depth_multiplier": 0.25, "image_size": 32, "num_labels": 5, "min_depth": 4, "depth_divisible_by": 4},
        inputs=pixels(32),
        plant_=zeros(r"reduce_1x1\.normalization"),
        segments=((1, 2), (3, 5), (6, 9), (10, 12), (13, 15)),
        planted=(1, 7, 8, 14),
        kept=11,
    ),
    Case(name="bert", source="BertForSequenceClassification", arguments=TEXT, **BERT),
    Case(name="roberta", source="RobertaModel", arguments=TEXT, **BERT),
    Case(
        name="distilbert",
        family="DistilBERT",
        source="DistilBertForSequenceClassification",
        arguments={"n_layers": 6, "dim": 16, "n_heads": 2, "hidden_dim": 32, "vocab_size": 64, "max_position_embeddings": 64},
        inputs=right_padded,
        plant_=plant_distilbert_,
        before_=even_norms_,
        ordinary=True,
        **SPREAD,
    ),
    Case(
        name="bert-decoder",
        source="BertLMHeadModel",
        decoder=True,
        arguments=TEXT | {"is_decoder": True, "bos_token_id": 1, "eos_token_id": None},
        **BERT | {"inputs": left_padded},
    ),
    Case(name="llama", source="LlamaForCausalLM", arguments=DECODER, **LLAMA),
    Case(name="llama-tied", source="LlamaForCausalLM", arguments=DECODER | {"tie_word_embeddings": True}, **LLAMA),
    Case(name="mistral-sliding", source="MistralForCausalLM", arguments=DECODER | {"sliding_window": 4}, **LLAMA),
    Case(
        name="qwen2-mixed",
        source="Qwen2ForCausalLM",
        arguments=DECODER | {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 3},
        **LLAMA,
    ),
    Case(name="qwen3", source="Qwen3ForCausalLM", arguments=DECODER | {"head_dim": 8}, **LLAMA),
    Case(
        name="gpt2",
        family="GPT-2",
        source="GPT2LMHeadModel",
        arguments={
            "vocab_size": 64,
            "n_embd": 16,
            "n_layer": 6,
            "n_head": 2,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": None,
            "pad_token_id": 0,
        },
        inputs=left_padded,
        plant_=zeros(r"attn\.c_proj", r"mlp\.c_proj"),
        ordinary=True,
        decoder=True,
        **SPREAD,
    ),
    Case(
        name="sequential",
        family="Sequential",
        source="planted:sequential",
        arguments={},
        inputs=normal(4, 4),
        plant_=zeros("fc2"),
        segments=((1, 7),),
        planted=(1, 3, 4),
        kept=2,
    ),
    Case(
        name="torchvision-vit",
        family="automatic",
        source="planted:torchvision_vit",
        arguments={},
        inputs=normal(2, 3, 16, 16),
        plant_=zeros(r"self_attention\.out_proj", r"mlp\.3"),
        segments=((0, 4),),
        planted=(0, 2),
        kept=1,
        ordinary=True,
    ),
    Case(
        name="torchvision-swin",
        family="automatic",
        source="planted:torchvision_swin",
        arguments={},
        inputs=normal(2, 3, 16, 16),
        plant_=zeros(r"attn\.proj", r"mlp\.3"),
        segments=((0, 2), (2, 6)),
        planted=(0, 3),
        kept=1,
    ),
    Case(
        name="torchvision-vgg",
        family="torchvision VGG",
        source="planted:torchvision_vgg",
        arguments={},
        inputs=normal(2, 3, 32, 32),
        plant_=plant_dirac_,
        segments=((1, 8), (10, 13)),
        planted=(2, 6, 11),
        kept=4,
    ),
    Case(
        name="timm-convnext",
        family="automatic",
        source="timm:convnext_atto",
        arguments={"depths": (2, 4, 1, 1), "dims": (4, 8, 8, 8), "num_classes": 5},
        inputs=normal(2, 3, 64, 64),
        plant_=zeros(r"mlp\.fc2"),
        segments=((0, 2), (2, 6), (6, 7), (7, 8)),
        planted=(0, 3, 4),
        kept=1,
        ordinary=True,
    ),
    Case(
        name="timm-mixer",
        source="planted:timm_mixer",
        inputs=normal(2, 3, 16, 16),
        **OWN | {"plant_": zeros(r"mlp_tokens\.fc2", r"mlp_channels\.fc2")},
    ),
    Case(
        name="own-stages",
        source="planted:Stages",
        inputs=normal(3, 8),
        **OWN | {"segments": ((0, 3), (3, 7)), "planted": (0, 4, 5), "kept": 1},
    ),
    Case(
        name="own-positions",
        source="planted:Positions",
        inputs=normal(3, 8, 8),
        **OWN | {"segments": ((0, 2), (2, 5)), "planted": (1, 3), "kept": 2},
    ),
    Case(name="own-tuples", source="planted:Unpacking", inputs=normal(3, 4, 8), **OWN),
    Case(name="own-keywords", source="planted:Keywords", inputs=normal(3, 4, 8), **OWN),
    Case(name="own-signals", source="planted:Signals", inputs=normal(3, 6, 9), **OWN),
]
BY_NAME = {case.name: case for case in CASES}
DECODERS = [case for case in CASES if case.decoder]


def every_other(cases: list[Case], first: int) -> list:
    """Cases as parameters, every second one for the quick suite and all of them with the slow one.

    Laws take turns in where they begin (0 or 1), so that each case stays quick in half of them.
    """
    import pytest

    return [
        pytest.param(case, id=case.name, marks=[] if (number - first) % 2 == 0 else pytest.mark.slow)
        for number, case in enumerate(cases)
    ]
