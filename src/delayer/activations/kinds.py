"""Activation functions: how each is recognised, as a module or as a call, and where its outer pieces begin."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Activation:
    """One kind of activation function.

    modules: class names; libraries wrap the same function in classes of their own, so names and not types decide.
    calls: functions, and names of tensor methods, that compute it without a module.
    module: builds the module that a call is turned into, from the call's own keyword arguments.
    above, below: from these inputs on outwards it is another piece than around zero (ReLU6 is constant from 6 on,
    Hardswish 0 up to -3 and its input from 3 on); None where there is no such piece.
    """

    name: str
    modules: tuple[str, ...]
    calls: tuple[Callable | str, ...]
    module: Callable[..., nn.Module]
    above: float | None = None
    below: float | None = None


ACTIVATIONS = (
    Activation("relu", ("ReLU",), (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU),
    Activation("relu6", ("ReLU6",), (F.relu6,), nn.ReLU6, above=6.0),
    Activation("leaky_relu", ("LeakyReLU",), (F.leaky_relu, F.leaky_relu_), nn.LeakyReLU),
    Activation("prelu", ("PReLU",), (), nn.PReLU),
    Activation(
        "gelu",
        (
            "GELU",
            "GELUTanh",
            "GELUActivation",
            "GELUTanhActivation",
            "PytorchGELUTanh",
            "NewGELUActivation",
            "FastGELUActivation",
            "QuickGELU",
            "QuickGELUActivation",
            "AccurateGELUActivation",
            "GeluClamp",
            "BloomGelu",
        ),
        (F.gelu,),
        nn.GELU,
    ),
    Activation("silu", ("SiLU", "Swish", "SiLUActivation"), (F.silu,), nn.SiLU),
    Activation(
        "hardswish",
        ("Hardswish", "HardSwish", "HardSwishJit", "HardSwishMe"),
        (F.hardswish,),
        nn.Hardswish,
        above=3.0,
        below=-3.0,
    ),
)
BY_MODULE = {name: kind for kind in ACTIVATIONS for name in kind.modules}
BY_CALL = {call: kind for kind in ACTIVATIONS for call in kind.calls}
BY_NAME = {kind.name: kind for kind in ACTIVATIONS}


def activation_of(module: nn.Module) -> Activation | None:
    """The kind of a module, None for one that is no activation."""
    return BY_MODULE.get(type(module).__name__)


def module_for(kind: Activation, arguments: dict) -> nn.Module:
    """The module that does what a call with these keyword arguments did; never in place, which nothing needs.

    Raises ValueError for an argument that the module does not know, or that is no plain number or word.
    """
    plain = {name: value for name, value in arguments.items() if name != "inplace"}
    if any(not isinstance(value, (int, float, str, bool)) for value in plain.values()):
        raise ValueError(f"{kind.name} is called with {plain}, which only the forward pass knows")
    try:
        return kind.module(**plain)
    except TypeError as error:
        raise ValueError(f"{kind.name} is called with {plain}: {error}") from error
