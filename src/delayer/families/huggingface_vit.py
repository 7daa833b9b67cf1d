"""Hugging Face ViT, DeiT and DINOv2."""

from delayer.families import families
from delayer.families._examples import huggingface_image
from delayer.families._huggingface import renumber_layers_
from delayer.network.blocks import Family

families.register("Hugging Face ViT")(
    Family(
        name="Hugging Face ViT",
        classes=(r"transformers\.models\.(vit|deit|dinov2)\.modeling_\w+\.(ViT|DeiT|Dinov2)\w*",),
        blocks=r"(\w+\.)?(encoder\.)?layers?\.\d+",
        axis=-1,
        rows="first",
        example=huggingface_image,
        recount_=renumber_layers_(),
    )
)
