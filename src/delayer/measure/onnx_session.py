"""An exported graph as a callable that runs in onnxruntime."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from delayer.errors import ExportError


def ort_session(path: str | Path, threads: int | None = None) -> Callable[..., Tensor]:
    """A callable that runs a graph on the CPU: `run(x)` or `run(**inputs)` gives its first output.

    `threads` is the session's own; by default as many as torch uses. Raises ExportError without onnxruntime.
    """
    need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    # A session whose idle threads wait by spinning slows down the one that it is compared with.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [slot.name for slot in session.get_inputs()]

    def run(*tensors: Tensor, **named: Tensor) -> Tensor:
        given = dict(zip(names, tensors, strict=False)) | named
        feed = {name: x.numpy(force=True) for name, x in given.items() if name in names}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def need(*packages: str) -> None:
    """Raise ExportError, with the command that helps, unless all these packages are installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ExportError(
            f"ONNX needs the packages {', '.join(packages)}; missing: {', '.join(missing)}. "
            'Install them with: pip install "delayer[onnx]"'
        )
