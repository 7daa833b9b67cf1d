"""Hugging Face MobileNetV2; its configuration does not say how many blocks it has."""

from delayer.families import families
from delayer.families._examples import huggingface_image
from delayer.network.blocks import Family

families.register("Hugging Face MobileNetV2")(
    Family(
        name="Hugging Face MobileNetV2",
        classes=(r"transformers\.models\.mobilenet_v2\..*\.MobileNetV2.*",),
        blocks=r"(mobilenet_v2\.)?layer\.\d+",
        axis=1,
        rows="mean",
        example=huggingface_image,
    )
)
