"""timm's ViT, DeiT and DINOv2."""

from delayer.families import families
from delayer.families._examples import timm_image
from delayer.network.blocks import Family

families.register("timm ViT")(
    Family(
        name="timm ViT",
        classes=(r"timm\.models\.(vision_transformer\.VisionTransformer|deit\.VisionTransformerDistilled)",),
        blocks=r"blocks\.\d+",
        axis=-1,
        rows="first",
        example=timm_image,
    )
)
