"""timm's ResNet."""

from delayer.families import families
from delayer.families._examples import timm_image
from delayer.network.blocks import Family

families.register("timm ResNet")(
    Family(
        name="timm ResNet",
        classes=(r"timm\.models\.resnet\.ResNet",),
        blocks=r"layer\d+\.\d+",
        axis=1,
        rows="mean",
        example=timm_image,
    )
)
