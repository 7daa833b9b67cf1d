"""timm's Swin. Its shifted windows alternate, so an odd number of dropped blocks is no ordinary Swin any more."""

from delayer.families import families
from delayer.families._examples import timm_image
from delayer.network.blocks import Family

families.register("timm Swin")(
    Family(
        name="timm Swin",
        classes=(r"timm\.models\.swin_transformer\.SwinTransformer",),
        blocks=r"layers\.\d+\.blocks\.\d+",
        axis=-1,
        rows="mean",
        example=timm_image,
    )
)
