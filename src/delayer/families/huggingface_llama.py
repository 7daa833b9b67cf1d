"""Hugging Face Llama, Mistral, Qwen2 and Qwen3."""

from delayer.families import families
from delayer.families._examples import token_ids
from delayer.families._huggingface import renumber_layers_
from delayer.network.blocks import Family

families.register("Llama")(
    Family(
        name="Llama",
        classes=(r"transformers\.models\.(llama|mistral|qwen2|qwen3)\.modeling_\w+\.(Llama|Mistral|Qwen2|Qwen3)\w*",),
        blocks=r"(model\.)?layers\.\d+",
        axis=-1,
        rows="last",
        example=token_ids,
        recount_=renumber_layers_(per_layer=("layer_types",)),
    )
)
