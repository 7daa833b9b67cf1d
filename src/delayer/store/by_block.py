"""Networks whose weights stay in their files: what is opened so, and how it is opened."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from delayer.errors import DelayerWarning, ModelError, WeightsError
from delayer.network.by_layer import run_by_layer_
from delayer.network.mapped import MappedFile, MappedWeight, give_back_freed_memory_
from delayer.store.limits import Shapes
from delayer.store.weights import header

ByBlock = Literal["auto", "yes", "no"]
"""Whether weights stay in their files: yes, no, or as soon as three copies of them in float32 do not fit into memory."""
COPIES = 3
"""Networks that a search holds at a time: the original, one that is tried, and the best so far."""
DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def stays_in_files(asked: ByBlock, shapes: Shapes) -> bool:
    """Whether a network of these weights is opened so, as it was asked for."""
    if asked != "auto":
        return asked == "yes"
    needed = COPIES * 4 * sum(prod(shape) for _, shape in shapes.values())
    return needed > available_bytes()


def available_bytes() -> float:
    """Memory that this process may still take: what the system says is available, and the limit of its group; else infinite."""
    found = [float("inf")]
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024.0 * int(lines["MemAvailable"].split()[0]))
        group = Path("/sys/fs/cgroup")
        found.append(float((group / "memory.max").read_text()) - float((group / "memory.current").read_text()))
    except (OSError, ValueError, KeyError):
        pass
    if len(found) == 1 and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    return min(found)


def mapped_weights(files: Iterable[Path]) -> dict[str, MappedWeight]:
    """All tensors of safetensors files, where they lie. Raises WeightsError for what is none, or names a tensor twice."""
    found: dict[str, MappedWeight] = {}
    for path in files:
        known = header(path)  # which looks at the whole header before anything is believed
        file = MappedFile(path.open("rb"))
        length = int.from_bytes(file.map[:8], "little")
        for name, facts in json.loads(file.map[8 : 8 + length]).items():
            if name == "__metadata__":
                continue
            dtype, shape = known[name]
            if name in found:
                raise WeightsError(
                    f"{path} holds {name}, which another file of the same network holds too. Fetch the files again."
                )
            if dtype not in DTYPES:
                raise WeightsError(f"{path} holds {name} in {dtype}, which cannot be read where it lies. Use --by-block no.")
            offset = 8 + length + facts["data_offsets"][0]
            if offset % DTYPES[dtype].itemsize:
                raise WeightsError(
                    f"{path} holds {name} at an odd place ({offset}), where none is read. Save the file again by safetensors."
                )
            found[name] = MappedWeight.at(file, offset, DTYPES[dtype], shape)
    return found


def check_can_stay(files: Sequence[Path], name: str) -> None:
    """Raises ModelError for a network whose weights are in no safetensors files."""
    if not files:
        raise ModelError(f"{name} has no safetensors weights that could stay in their files. Use --by-block no.")


def opened_by_block(
    names: Mapping[str, str], files: Sequence[Path], build: Callable[[dict[str, Tensor], torch.dtype], nn.Module], where: str
) -> nn.Module:
    """A network of Hugging Face's whose weights stay in their files, in the type that they are stored in.

    names: of the network's tensors, by those in the files. build: makes the network of a state, in a type.
    Raises ModelError where its weights are not those of the files as they lie there.
    """
    give_back_freed_memory_()
    lying = {names.get(name, name): weight for name, weight in mapped_weights(files).items()}
    sizes: dict[torch.dtype, int] = {}
    for weight in lying.values():
        if weight.is_floating_point():
            sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.nbytes
    if not sizes:
        raise ModelError(f"{where} holds no floating-point weights. Use --by-block no.")
    model = build({name: weight.detach() for name, weight in lying.items()}, max(sizes, key=lambda dtype: sizes[dtype]))
    _put_(model, lying)
    apart = sum(p.nbytes for p in model.parameters() if not isinstance(p, MappedWeight))
    if apart > 0.05 * sum(weight.nbytes for weight in lying.values()):
        raise ModelError(
            f"{where} cannot be opened with its weights in their files: {type(model).__name__} keeps {apart / 2**30:.2f} GiB "
            "of them in another form than the files do (experts that are joined, say). Use --by-block no."
        )
    return run_by_layer_(model)


def _put_(model: nn.Module, lying: Mapping[str, MappedWeight]) -> None:
    """Put the weights of files where a network shows the same memory, or the same name and shape in another type."""
    at = {weight.data_ptr(): weight for weight in lying.values() if weight.numel()}
    put: dict[int, nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, own in module._parameters.items():
            if own is None:
                continue
            if id(own) not in put:
                same = at.get(own.data_ptr())
                by_name = lying.get(f"{path}.{name}" if path else name)
                if same is not None and same.shape == own.shape and same.dtype == own.dtype:
                    put[id(own)] = same
                elif by_name is not None and by_name.shape == own.shape and by_name.dtype != own.dtype:
                    put[id(own)] = by_name
                else:
                    own.requires_grad_(False)
                    put[id(own)] = own
            module._parameters[name] = put[id(own)]


def with_place(given: Mapping[str, Tensor], own: Iterable[str], where: str, kind: str) -> dict[str, Tensor]:
    """The tensors for which a network has a place; a DelayerWarning says what is left out (further heads)."""
    places = set(own)
    more = sorted(given.keys() - places) if places else []
    if more:
        warnings.warn(
            f"{where} holds {len(more)} tensors for which {kind} has no place ({', '.join(more[:3])}"
            f"{', …' if len(more) > 3 else ''}); they are left out.",
            DelayerWarning,
            stacklevel=3,
        )
    return {name: tensor for name, tensor in given.items() if name not in more}
