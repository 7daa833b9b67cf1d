"""The network inside what people put around one: torch.compile, DataParallel, adapters of peft; and no quantised one.

Libraries are told apart by the modules that their classes come from, so that none of them is needed here.
"""

import copy
import warnings
from typing import Any

import torch
from torch import nn

from delayer.errors import DelayerWarning, ModelError
from delayer.network.notes import note_

QUANTISERS = frozenset(
    "bitsandbytes auto_gptq gptqmodel awq hqq quanto optimum torchao eetq aqlm vptq fbgemm_gpu compressed_tensors".split()
)
"""Packages whose modules and tensors hold packed weights."""
NOTES = ("delayer_source", "delayer_dtype", "delayer_edits", "preprocessing")
"""What may be noted on a wrapper, and belongs to the network inside."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, which shares its weights with the wrapper; adapters are merged into a copy of it.

    A DelayerWarning says what was taken off. Raises ModelError for a network whose weights are quantised.
    """
    found, taken = model, []
    while (inner := _inside(found)) is not None:
        taken.append(type(found).__name__)
        found = inner
    if compiled := [module for module in found.modules() if _compiled(module)]:
        taken.append(f"{len(compiled)} compiled parts")
        found = _uncompiled(found, compiled)
    check_whole(found)
    check_here(found)
    if any(_of(module, "peft") for module in found.modules()):
        found = _merged(found)
    if found is not model:
        note_(found, **{name: getattr(model, name) for name in NOTES if name in vars(model)})
    if taken:
        warnings.warn(
            f"{' around '.join(taken)} is taken off: delayer cuts the {type(found).__name__} inside, which shares its weights. "
            "Wrap or compile what comes out.",
            DelayerWarning,
            stacklevel=3,
        )
    return found


def check_whole(model: nn.Module) -> None:
    """Raises ModelError for a network whose weights are quantised: packed numbers can be neither fitted nor merged."""
    if how := _quantised(model):
        raise ModelError(
            f"This {type(model).__name__} is quantised ({how}), and packed weights cannot be fitted and merged as numbers. "
            "Cut first, quantise after: load the network as it was before, cut it, save it, and quantise the saved folder."
        )


def check_here(model: nn.Module) -> None:
    """Raises ModelError for a network whose weights accelerate put elsewhere, from where they come for each call."""
    if any(weight.is_meta for weight in model.parameters()) and any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ModelError(
            f"accelerate keeps weights of this {type(model).__name__} elsewhere (device_map), where they can be neither read nor "
            "changed. Open its folder so that they stay in their files: delayer.load(FOLDER, by_block='yes')."
        )


def check_not_quantised(config: dict[str, Any], where: str) -> None:
    """Raises ModelError for a configuration of a quantised network."""
    stated = config.get("quantization_config") or config.get("compression_config")
    if not stated:
        return
    method = stated.get("quant_method") or stated.get("format") if isinstance(stated, dict) else None
    raise ModelError(
        f"{where} is a quantised network (quantization_config{f', {str(method)[:40]}' if method else ''}), whose packed weights "
        "cannot be watched, fitted and merged as numbers. Cut first, quantise after: give the network that it was made from, and "
        "quantise the smaller one."
    )


def _inside(model: nn.Module) -> nn.Module | None:
    """The network in a wrapper around all of it."""
    if _compiled(model):
        return model._modules["_orig_mod"]
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    return None


def _compiled(module: nn.Module) -> bool:
    return "_orig_mod" in vars(module).get("_modules", {}) and _of(module, "torch")


def _uncompiled(model: nn.Module, compiled: list[nn.Module]) -> nn.Module:
    """The same network with its compiled parts as they were; modules are new, and tensors the same."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    for module in reversed(compiled):  # the inner ones first
        memo[id(module)] = copy.deepcopy(module._modules["_orig_mod"], memo)
    return copy.deepcopy(model, memo)


def _merged(model: Any) -> nn.Module:
    """A copy of the network with its adapters merged into its weights. Raises ModelError where their library cannot."""
    if not hasattr(model, "merge_and_unload"):
        raise ModelError(
            f"This {type(model).__name__} holds adapters of peft without the PeftModel around it. Merge them first: "
            "get_peft_model's or PeftModel's .merge_and_unload() gives the network to cut."
        )
    try:
        found = copy.deepcopy(model).merge_and_unload()
    except Exception as error:  # whatever peft raises for an adapter that is no change of weights
        raise ModelError(
            f"The adapters of this {type(model).__name__} cannot be merged into its weights ({error}). Remove them first."
        ) from error
    if any(_of(module, "peft") for module in found.modules()):
        raise ModelError(
            f"The adapters of this {type(model).__name__} change more than weights, so they cannot be merged. Remove them first."
        )
    warnings.warn(
        f"The adapters of {type(model).__name__} are merged into a copy of {type(found).__name__}'s weights, and that is what is "
        "cut (chain.model). To do without the copy, merge them yourself: model.merge_and_unload().",
        DelayerWarning,
        stacklevel=4,
    )
    return found.eval()


def _quantised(model: nn.Module) -> str:
    """What says that a network is quantised, "" where nothing does."""
    stated = getattr(getattr(model, "config", None), "quantization_config", None)
    if stated or getattr(model, "is_quantized", False):
        return "its configuration says so, quantization_config"
    for path, module in model.named_modules():
        root, name = type(module).__module__.split("."), type(module).__name__
        if root[0] in QUANTISERS or root[:3] == ["torch", "ao", "nn"] or name in ("QuantLinear", "WQLinear_GEMM", "FP8Linear"):
            return f"{path} is a {name} of {root[0]}"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        packed = isinstance(tensor, nn.Parameter) and tensor.dtype.itemsize == 1 and tensor.dtype != torch.bool
        if packed or type(tensor).__module__.split(".")[0] in QUANTISERS:
            return f"{name} is a {type(tensor).__name__} of {tensor.dtype}"
    return ""


def _of(module: nn.Module, package: str) -> bool:
    return type(module).__module__.split(".")[0] == package
