"""torchvision's MobileNetV2: blocks are the inverted residuals."""

from delayer.families import families
from delayer.families._examples import image_224
from delayer.network.blocks import Family

families.register("torchvision MobileNetV2")(
    Family(
        name="torchvision MobileNetV2",
        classes=(r"torchvision\.models\.mobilenetv2\.MobileNetV2",),
        blocks=r"features\.([1-9]|1[0-7])",
        axis=1,
        rows="mean",
        example=image_224,
    )
)
