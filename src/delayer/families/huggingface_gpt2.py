"""Hugging Face GPT-2."""

from torch import nn

from delayer.errors import ModelError
from delayer.families import families
from delayer.families._examples import token_ids
from delayer.families._huggingface import renumber_layers_
from delayer.network.blocks import Family


def _renumber_gpt2_(model: nn.Module, kept: dict[str, list[int]]) -> None:
    """Number the layers anew, where that is not part of what they compute."""
    attentions = [module for module in model.modules() if hasattr(module, "scale_attn_by_inverse_layer_idx")]
    if any(attn.scale_attn_by_inverse_layer_idx and not hasattr(attn, "scaling") for attn in attentions):
        raise ModelError(
            "This GPT-2 divides its attention by the number of the layer, which this version of transformers reads "
            "while it runs, so that a cut would change every later layer. Install a newer transformers."
        )
    renumber_layers_()(model, kept)


families.register("GPT-2")(
    Family(
        name="GPT-2",
        classes=(r"transformers\.models\.gpt2\.modeling_gpt2\.GPT2\w*",),
        blocks=r"(transformer\.)?h\.\d+",
        axis=-1,
        rows="last",
        example=token_ids,
        recount_=_renumber_gpt2_,
    )
)
