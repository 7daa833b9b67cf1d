"""Hugging Face Swin."""

from delayer.families import families
from delayer.families._examples import huggingface_image
from delayer.families._huggingface import recount_stages_
from delayer.network.blocks import Family

families.register("Hugging Face Swin")(
    Family(
        name="Hugging Face Swin",
        classes=(r"transformers\.models\.swin\.modeling_swin\.Swin\w*",),
        blocks=r"(swin\.)?encoder\.layers\.\d+\.blocks\.\d+",
        axis=-1,
        rows="mean",
        example=huggingface_image,
        recount_=recount_stages_,
    )
)
