"""Hugging Face DistilBERT."""

from delayer.families import families
from delayer.families._examples import token_ids
from delayer.families._huggingface import renumber_layers_
from delayer.network.blocks import Family

families.register("DistilBERT")(
    Family(
        name="DistilBERT",
        classes=(r"transformers\.models\.distilbert\.modeling_\w+\.DistilBert\w*",),
        blocks=r"(\w+\.)?transformer\.layer\.\d+",
        axis=-1,
        rows="mean",
        example=token_ids,
        recount_=renumber_layers_(),
    )
)
