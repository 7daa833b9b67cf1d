"""torchvision's ResNet."""

from delayer.families import families
from delayer.families._examples import image_224
from delayer.network.blocks import Family

families.register("torchvision ResNet")(
    Family(
        name="torchvision ResNet",
        classes=(r"torchvision\.models\.resnet\.ResNet",),
        blocks=r"layer\d+\.\d+",
        axis=1,
        rows="mean",
        example=image_224,
    )
)
