"""`gguf:PATH`: a network of llama.cpp's format, as transformers reads it, its weights unpacked into float32."""

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from delayer.errors import DelayerWarning, ModelError, WeightsError
from delayer.libraries import first_line, gguf_place, library, quiet
from delayer.network.notes import config_of
from delayer.store.closed import check_configuration, huggingface_class
from delayer.store.gguf_header import read_gguf
from delayer.store.huggingface import from_pretrained
from delayer.store.limits import check_counts, check_size

PACKED = ("hf_quantizer", "quantization_method", "is_quantized")
"""What transformers notes on a network whose weights were packed; here they no longer are."""


def open_gguf(name: str) -> nn.Module:
    """The network of a name `gguf:PATH`.

    The file is looked through before a library opens it: every length in it fits, and its configuration asks for no larger
    network than its tensors account for. Raises ModelError where a library is missing, or does not know the architecture;
    WeightsError for a damaged file.
    """
    transformers, gguf = library("transformers", "text"), library("gguf", "gguf")
    library("accelerate", "gguf")
    folder, options = gguf_place(name)
    path = Path(folder) / options["gguf_file"]
    sizes = {int(kind): (int(block), int(size)) for kind, (block, size) in gguf.GGML_QUANT_SIZES.items()}
    values, shapes = read_gguf(path, sizes)
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(folder, **options, trust_remote_code=False)
    except Exception as error:  # whatever the library raises for an architecture that it does not read
        raise ModelError(
            f"{path} holds a network of the architecture {str(values.get('general.architecture'))[:40]!r}, which transformers "
            f"{transformers.__version__} does not open ({first_line(error)[:200]}). Give the network that the file was made from."
        ) from error
    stated = config.to_dict()
    check_configuration({key: value for key, value in stated.items() if key != "quantization_config"}, name)
    check_counts(stated, name, shapes)
    kind = huggingface_class(_class_name(config, str(path)), str(path))
    with quiet(transformers):
        check_size(lambda: kind(config), shapes, 0, name)
    try:
        model = from_pretrained(kind, folder, config=config, gguf_file=options["gguf_file"])
    except WeightsError as error:
        raise WeightsError(f"{path} could not be read as a {kind.__name__}: {first_line(error)}.") from error
    _unpacked_(model)
    if any(kind != "GGUF 0" for kind, _ in shapes.values()):
        warnings.warn(
            f"{name} holds packed or half-precision weights, which are unpacked into float32: what is cut and saved is larger "
            "than the file. Quantise the saved folder again afterwards, or save it in half precision (--dtype).",
            DelayerWarning,
            stacklevel=2,
        )
    return model


def _class_name(config: Any, where: str) -> str:
    """The class that a file's configuration names, or else the one that writes text, or the bare one."""
    transformers = library("transformers", "text")
    if stated := getattr(config, "architectures", None):
        return str(stated[0])
    for head in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModel"):
        if (kind := getattr(transformers, head)._model_mapping.get(type(config), None)) is not None:
            return (kind[0] if isinstance(kind, tuple) else kind).__name__
    raise ModelError(
        f"transformers has no network for the {type(config).__name__} of {where}. Give the network it was made from."
    )


def _unpacked_(model: nn.Module) -> None:
    """Let a network no longer say that its weights are packed, so that it is saved as any other."""
    config = config_of(model)
    for owner, names in ((config, ("quantization_config",)), (model, PACKED)):
        for name in names:
            if name in vars(owner):
                delattr(owner, name)
