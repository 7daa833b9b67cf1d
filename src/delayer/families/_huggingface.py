"""What Hugging Face networks ask for after a removal: layer numbers, counts and per-layer lists."""

from collections.abc import Callable
from typing import Any

from torch import nn

from delayer.modules.stand_in import StandIn
from delayer.network.notes import note_


def renumber_layers_(per_layer: tuple[str, ...] = ()) -> Callable[[nn.Module, dict[str, list[int]]], None]:
    """For transformers with one list: number the layers anew and cut the configuration's count and lists.

    The parent's forward slices its layers by the count, and a cache is indexed by each attention's `layer_idx`.
    per_layer: configuration lists with one entry a layer.
    """

    def recount_(model: nn.Module, kept: dict[str, list[int]]) -> None:
        for path, left in kept.items():
            container = model.get_submodule(path)
            for position, layer in enumerate(container if isinstance(container, nn.Sequential | nn.ModuleList) else ()):
                for module in [layer] if isinstance(layer, StandIn) else layer.modules():
                    if getattr(module, "layer_idx", None) is not None:
                        note_(module, layer_idx=position)
            for config in configs_of(model):
                for name in per_layer:
                    values = getattr(config, name, None)
                    if values is not None and len(values) > max(left, default=-1):
                        setattr(config, name, [values[k] for k in left])
                config.num_hidden_layers = len(left)
                if names := getattr(config, "stage_names", None):  # a backbone has a name for each layer's output
                    config.stage_names = names[: len(left) + 1]
                    config.out_indices = sorted({sum(k < i % len(names) for k in left) for i in config.out_indices})

    return recount_


def recount_stages_(model: nn.Module, kept: dict[str, list[int]]) -> None:
    """For networks with stages: the configuration's `depths`."""
    for config in configs_of(model):
        config.depths = [len(left) for left in kept.values()]


def configs_of(model: nn.Module) -> list[Any]:
    """Every distinct configuration object that the modules of a network read."""
    found = {id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "to_dict")}
    return list(found.values())
