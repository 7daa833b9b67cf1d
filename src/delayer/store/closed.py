"""The closed lists: which constructors of timm and transformers a file may name, and with which arguments.

What is left out reads files, downloads, unpickles or imports: timm's `checkpoint_path`, `pretrained`, `pretrained_cfg`,
`feature_cls`, its names `local-dir:` and `hf-hub:`; transformers' `auto_map`, attention kernels of the hub, quantisers, backbones
by name, and the few networks of its that others build or that open pickles.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from delayer.errors import ModelError
from delayer.libraries import library
from delayer.store.artefact import Source
from delayer.store.integrity import read_json
from delayer.store.pickles import how_to_convert

TIMM_NUMBERS = frozenset(
    "num_classes in_chans img_size patch_size embed_dim depth depths num_heads mlp_ratio mlp_ratios qkv_bias qk_norm "
    "proj_bias init_values ls_init_value class_token no_embed_class reg_tokens pre_norm final_norm fc_norm "
    "dynamic_img_size dynamic_img_pad drop_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate "
    "drop_path_rate window_size strict_img_size always_partition channels dims layers cardinality base_width stem_width "
    "replace_stem_pool block_reduce_first down_kernel_size avg_down output_stride zero_init_last kernel_sizes "
    "head_init_scale conv_mlp use_grn expand_ratio num_features stem_size round_chs_fn_divisor head_hidden_size "
    "use_abs_pos_emb use_rel_pos_bias use_shared_rel_pos_bias".split()
)
"""Arguments of timm that are numbers, switches, or lists of them."""
TIMM_WORDS = frozenset("global_pool pos_embed stem_type weight_init act_layer norm_layer pool_type".split())
"""Arguments of timm that are words of its own, which it looks up in tables."""
TIMM_FACTS = frozenset(
    "num_classes input_size min_input_size test_input_size pool_size test_pool_size fixed_input_size interpolation crop_pct "
    "test_crop_pct crop_mode mean std first_conv classifier architecture tag license num_features".split()
)
HUGGINGFACE_ARGUMENTS = frozenset({"add_pooling_layer"})
ATTENTION = frozenset({None, "", "eager", "sdpa"})
EXPERTS = frozenset({None, "", "eager", "grouped_mm", "batched_mm"})
DTYPES = frozenset({None, "", "auto", "float32", "float16", "bfloat16", "float64"})
RUNS = frozenset(
    "auto_map custom_pipelines trust_remote_code quantization_config kernel_config checkpoint_path pretrained pretrained_cfg "
    "model_args custom_generate".split()
)
"""Keys of a configuration with which something is fetched, imported or run."""
CHOICES = {
    "_attn_implementation": ATTENTION,
    "attn_implementation": ATTENTION,
    "_experts_implementation": EXPERTS,
    "experts_implementation": EXPERTS,
    "dtype": DTYPES,
    "torch_dtype": DTYPES,
}
FOREIGN = frozenset({"auto", "timm_backbone", "timm_wrapper", "rag", "layoutlmv2"})
"""Folders of transformers whose networks are built by others, or open pickles. Those that fetch kernels find none: `quiet`."""
NO_NUMBERS = frozenset(("__float__", word) for word in ("Infinity", "-Infinity", "NaN"))
"""How transformers writes a number that JSON has no word for."""
LABELS = frozenset({"id2label", "label2id"})
_WORD = re.compile(r"[A-Za-z0-9_]{0,32}")


def check_timm(name: str, arguments: Mapping[str, Any], where: str) -> None:
    """Raises ModelError for an architecture or an argument of timm that a file may not name."""
    timm = library("timm", "vision")
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", name) or not timm.is_model(name.split(".")[0]):
        raise ModelError(
            f"{where} names timm:{name[:80]}, which is no architecture of timm {timm.__version__}; a file may name "
            "nothing else. Install the version that saved it."
        )
    for key, value in arguments.items():
        if not ((key in TIMM_NUMBERS and _numbers(value)) or (key in TIMM_WORDS and _word(value))):
            raise ModelError(
                f"{where} wants timm's {name} built with {key}={str(value)[:80]!r}, which a file may not ask for. "
                "Build the network yourself, in a function, and give that: load(FOLDER, factory=...)."
            )


def check_timm_folder(folder: Path) -> None:
    """Raises ModelError for a folder of timm's whose configuration names what it may not, or that holds a pickle only."""
    config = read_json(folder / "config.json")
    check_timm(str(config.get("architecture", "")), config.get("model_args") or {}, str(folder / "config.json"))
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"{folder} has no model.safetensors; delayer never opens pickles. Convert its weights to "
            f"safetensors{how_to_convert(str(folder))}"
        )


def timm_facts(stated: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's description of pretrained weights says of images and heads, without where to fetch them and how."""
    return {key: value for key, value in stated.items() if key in TIMM_FACTS and value is not None}


def huggingface_class(name: str, where: str) -> Any:
    """The class of transformers' own that a file names. Raises ModelError for anything else."""
    transformers = library("transformers", "text")
    kind = getattr(transformers, name, None) if name.isidentifier() and not name.startswith("_") else None
    folder = getattr(kind, "__module__", "").removeprefix("transformers.models.")
    if not (
        isinstance(kind, type)
        and issubclass(kind, transformers.PreTrainedModel)
        and folder.split(".")[0] not in FOREIGN
        and folder != kind.__module__
        and getattr(kind, "config_class", None) is not None
    ):
        raise ModelError(
            f"{where} names the class {name[:80]!r}, which is no network of transformers {transformers.__version__} "
            "that a file may name. Install the version that saved it."
        )
    return kind


def check_huggingface(source: Source, where: str) -> None:
    """Raises ModelError for a class, an argument or a key that a file may not name."""
    huggingface_class(source.model_class, where)
    for key, value in source.arguments.items():
        if key not in HUGGINGFACE_ARGUMENTS or not isinstance(value, bool):
            raise ModelError(
                f"{where} wants {source.model_class} built with {key}={str(value)[:80]!r}, which a file may not "
                "ask for. Bring its delayer.json back."
            )
    check_configuration(source.config, where)


def check_configuration(config: Mapping[str, Any], where: str) -> None:
    """Raises ModelError for a key with which a configuration would fetch, import or run something."""
    for path, key, value in _walk(config):
        if key == "auto_map" and value:
            raise ModelError(
                f"{where} wants Python code of its own imported (auto_map), which delayer never does. Take a version "
                "that its library knows by itself; trust=True (--trust) opens it as that, without its code."
            )
        if _runs(key, value):
            raise ModelError(
                f"{where} holds {path}={str(value)[:60]!r}, with which something would be fetched, imported or "
                "run. Take it out if you can do without; trust=True (--trust) lets it be."
            )


def _runs(key: str, value: Any) -> bool:
    """Whether a configuration's entry asks for more than shapes and numbers."""
    if key in CHOICES:
        return not isinstance(value, str | None) or value not in CHOICES[key]
    if key == "backbone":
        return not _word(value)
    if key == "backbone_kwargs":
        return not _numbers(list(value.values()) if isinstance(value, Mapping) else value)
    return (
        (key in RUNS and bool(value))
        or (key == "model_type" and value in FOREIGN)
        or (key.startswith("__") and (key, value) not in NO_NUMBERS)
    )


def check_folder(folder: Path) -> None:
    """Raises ModelError for a folder of transformers' whose files name code, or another network that is to be fetched."""
    for name in (
        "config.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "generation_config.json",
    ):
        if (folder / name).is_file():
            check_configuration(read_json(folder / name), str(folder / name))
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds an adapter for another network (adapter_config.json). Merge it into that network, and give the "
            "folder of both: peft.AutoPeftModel.from_pretrained(FOLDER).merge_and_unload().save_pretrained(NEW), with the "
            "AutoPeftModel of its kind (AutoPeftModelForCausalLM, ...)."
        )


def closed_configuration(kind: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with what its class declares, and numbers; a text under a name that nobody declares is left out."""
    config_class: Any = kind.config_class
    fields = dataclasses.fields(config_class) if dataclasses.is_dataclass(config_class) else ()
    declared = {f.name for f in fields}
    declared |= {
        *kind.config_class.attribute_map,
        "model_type",
        "architectures",
        "transformers_version",
        "num_labels",
        *CHOICES,
        "rope_scaling",
        "rope_theta",
        "rope_parameters",
    } | LABELS
    return {key: value for key, value in config.items() if key in declared or _numbers(value)}


def _walk(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Every key of nested configurations with its path and value; labels are texts for people."""
    todo: list[tuple[str, Any]] = [("", config)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield f"{path}{key}", str(key), inner
                if key not in LABELS:
                    todo.append((f"{path}{key}.", inner))
        elif isinstance(value, list | tuple):
            todo += [(path, inner) for inner in value if isinstance(inner, Mapping | list | tuple)]


def _numbers(value: Any) -> bool:
    return (
        value is None or isinstance(value, bool | int | float) or (isinstance(value, list | tuple) and all(map(_numbers, value)))
    )


def _word(value: Any) -> bool:
    return value is None or (isinstance(value, str) and bool(_WORD.fullmatch(value)))
