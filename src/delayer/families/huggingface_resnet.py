"""Hugging Face ResNet."""

from delayer.families import families
from delayer.families._examples import huggingface_image
from delayer.families._huggingface import recount_stages_
from delayer.network.blocks import Family

families.register("Hugging Face ResNet")(
    Family(
        name="Hugging Face ResNet",
        classes=(r"transformers\.models\.resnet\.modeling_resnet\.ResNet\w*",),
        blocks=r"(resnet\.)?encoder\.stages\.\d+\.layers\.\d+",
        axis=1,
        rows="mean",
        example=huggingface_image,
        recount_=recount_stages_,
    )
)
