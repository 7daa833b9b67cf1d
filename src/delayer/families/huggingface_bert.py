"""Hugging Face BERT and RoBERTa, as encoders and as decoders."""

from delayer.families import families
from delayer.families._examples import token_ids
from delayer.families._huggingface import renumber_layers_
from delayer.network.blocks import Family

families.register("BERT")(
    Family(
        name="BERT",
        classes=(r"transformers\.models\.(bert|roberta)\.modeling_\w+\.(Bert|Roberta)\w*",),
        blocks=r"(\w+\.)?encoder\.layer\.\d+",
        axis=-1,
        rows="mean",
        example=token_ids,
        recount_=renumber_layers_(),
    )
)
