"""Which preprocessing of images a network states; `images` does it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImagePlan:
    """How an image becomes [channels, height, width].

    mean, std: a number a channel, on the scale 0..1. size: (height, width), None to leave images as they are.
    crop_share: images larger than `size` are resized to size / crop_share, then the centre is cut out.
    squash: resize both sides to fit, instead of keeping the proportions and cutting off what is too long.
    said_by: who stated it.
    """

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None
    crop_share: float
    squash: bool
    interpolation: str
    said_by: str


def source_of(model: nn.Module) -> str | None:
    """The Hugging Face name or folder that a network came from, None when it does not say."""
    source = getattr(model, "delayer_source", None)
    if source is not None and source.kind == "huggingface":
        return source.name
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def image_plan(model: nn.Module, options: TaskOptions, default: dict[str, Any] | None = None) -> ImagePlan:
    """The preprocessing that options, the network itself, its library's configuration or else the data state.

    default: what the data state, such as {"mean": (0.5,), "std": (0.5,)}.
    Raises DataError when the numbers of means and channels do not go together.
    """
    said_by, facts = _stated(model)
    if not facts.get("mean") and default:
        said_by, facts = "the data", {**default, **facts}
    asked = {name: getattr(options, name) for name in ("mean", "std", "size", "channels")}
    facts = {**facts, **{name: value for name, value in asked.items() if value is not None}}
    channels = facts.get("channels") or _first_channels(model) or 3
    if not facts.get("mean") and not facts.get("std"):
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.0,), (1.0,))
        said_by = "assumed, as nothing states it"
    else:
        mean, std = facts.get("mean") or (0.0,), facts.get("std") or (1.0,)
        said_by = "as asked" if asked["mean"] or asked["std"] else said_by
    size = facts.get("size")
    return ImagePlan(
        channels,
        _per_channel(mean, channels, "mean"),
        _per_channel(std, channels, "std"),
        (size, size) if isinstance(size, int) else tuple(size) if size else None,
        facts.get("crop_share") or 1.0,
        bool(facts.get("squash")),
        facts.get("interpolation") or "bicubic",
        said_by,
    )


def _stated(model: nn.Module) -> tuple[str, dict[str, Any]]:
    if own := getattr(model, "preprocessing", None):
        return "the network's attribute `preprocessing`", dict(own)
    if getattr(model, "pretrained_cfg", None):
        from timm.data.config import resolve_model_data_config

        return "timm's data configuration", _from_timm(resolve_model_data_config(model), model)
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "model_type"):
        return "", {}
    facts = {"channels": getattr(config, "num_channels", None), "size": getattr(config, "image_size", None)}
    if (name := source_of(model)) is None:
        return "the network's configuration", facts
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):
        return "the network's configuration", facts
    if hasattr(processor, "data_config"):  # a timm network inside transformers
        return "its image processor", _from_timm(processor.data_config, model)
    return "its image processor", facts | _from_processor(processor)


def _from_timm(cfg: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    channels, *size = cfg["input_size"]
    # timm.create_model(img_size=32, in_chans=1) changes the network and leaves its configuration.
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size
    return {
        "mean": cfg["mean"],
        "std": cfg["std"],
        "size": size,
        "channels": _first_channels(model) or channels,
        "crop_share": cfg["crop_pct"],
        "squash": cfg.get("crop_mode") == "squash",
        "interpolation": cfg["interpolation"],
    }


def _from_processor(processor: Any) -> dict[str, Any]:
    settings = processor.to_dict()
    facts: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}
    if settings.get("do_normalize"):
        facts = {"mean": tuple(settings["image_mean"]), "std": tuple(settings["image_std"])}
    if settings.get("resample") is not None:
        from PIL import Image

        facts["interpolation"] = Image.Resampling(settings["resample"]).name.lower()
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    if settings.get("do_center_crop") and "height" in crop:
        facts["size"] = (crop["height"], crop["width"])
        short = size.get("shortest_edge")
        facts["crop_share"] = min(crop.values()) / short if short else 1.0
    elif settings.get("do_resize") and "height" in size:
        facts |= {"size": (size["height"], size["width"]), "squash": True}
    elif settings.get("do_resize") and "shortest_edge" in size:
        edge = size["shortest_edge"]
        # ConvNeXt's processor cuts out the centre below 384 pixels and squashes from there on.
        facts |= {"size": (edge, edge), "squash": edge >= 384, "crop_share": settings.get("crop_pct") if edge < 384 else 1.0}
    return facts


def _first_channels(model: nn.Module) -> int | None:
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), None)


def _per_channel(values: Sequence[float], channels: int, what: str) -> tuple[float, ...]:
    values = tuple(float(value) for value in ([values] if isinstance(values, int | float) else values))
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    if channels == 1:
        return (sum(values) / len(values),)
    raise DataError(f"The {what} has {len(values)} values, but images have {channels} channels. Give one or {channels}.")
