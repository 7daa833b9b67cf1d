"""Training by adapters of low rank: each linear layer gains a product of two thin matrices, which is added to it at the end."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from delayer.errors import ModelError
from delayer.libraries import library


@contextmanager
def adapters(model: nn.Module, rank: int, only: Collection[str] | None = None) -> Iterator[set[str]]:
    """Inside, linear layers carry adapters; gives the names of the parameters to train. Afterwards they are merged and gone.

    rank: of the products. only: names of the network's parameters; of layers whose weight is not among them nothing is adapted.
    The layer that gives the logits, and embeddings, stay as they are.
    Raises ModelError without peft, or where there is no linear layer to adapt.
    Source: Hu et al. 2021 (LoRA), arXiv 2106.09685, by the library peft. Fidelity: all linear layers of the blocks, α = rank.
    """
    peft = library("peft", "lora")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    paths = [
        path
        for path, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and (only is None or f"{path}.weight" in only)
    ]
    if not paths:
        raise ModelError(f"{type(model).__name__} has no linear layer to adapt among what is to be trained. Leave --lora out.")
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=paths), model)
    try:
        yield {name for name, _ in model.named_parameters() if ".lora_" in name}
    finally:
        for path in paths:
            adapted: Any = model.get_submodule(path)
            adapted.merge()
            model.set_submodule(path, adapted.base_layer)
        vars(model).pop("peft_config", None)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
