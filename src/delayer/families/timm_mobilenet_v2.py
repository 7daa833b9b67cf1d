"""timm's MobileNetV2, and its further networks of inverted residuals."""

from delayer.families import families
from delayer.families._examples import timm_image
from delayer.network.blocks import Family

families.register("timm MobileNetV2")(
    Family(
        name="timm MobileNetV2",
        classes=(r"timm\.models\.(efficientnet\.EfficientNet|mobilenetv3\.MobileNetV3)",),
        blocks=r"blocks\.\d+\.\d+",
        axis=1,
        rows="mean",
        example=timm_image,
    )
)
