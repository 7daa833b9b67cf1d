"""torchvision's VGG: every module in `features` is a block; the convolutions are its layers."""

from delayer.families import families
from delayer.families._examples import image_224
from delayer.network.blocks import Family

families.register("torchvision VGG")(
    Family(
        name="torchvision VGG",
        classes=(r"torchvision\.models\.vgg\.VGG",),
        blocks=r"features\.\d+",
        axis=1,
        rows="mean",
        tau=0.7,
        example=image_224,
    )
)
