"""A network as an ONNX file that was compared with torch before it got its name."""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from delayer.errors import DelayerError, ExportError
from delayer.measure.onnx_session import need, ort_session
from delayer.network.calling import Inputs, call, each_tensor, first_tensor, output_of, ready, with_batch
from delayer.study import OnnxInfo

__all__ = ["OnnxCheck", "export_onnx", "ort_session"]

SINGLE_FILE_BYTES = 1_500_000_000
"""Weights up to this size lie inside the file; protobuf ends at 2 GB, so more go to a file beside it."""


EXPERTS = "_experts_implementation"
"""Where a configuration of transformers says how experts are computed."""


class OnnxCheck(OnnxInfo):
    """How an exported graph compares with torch."""

    max_relative_difference: float
    """The largest difference over the largest output of torch, both absolute."""
    dynamic_sequence: bool
    """Whether the length of the text may differ from the example's."""


def export_onnx(model: nn.Module, inputs: Inputs, path: str | Path, *, batch_dynamic: bool = True) -> OnnxCheck:
    """Write the network as an ONNX graph from its inputs to its main tensor; say how it compares with torch.

    The batch may then have any size, and so may the sequence where inputs are token ids (integers, [batch,
    sequence]). Where the network cannot be traced so, first the sequence and then the batch is fixed to that
    of `inputs`, and the record's note says why. Decoders are exported without their cache.

    The graph must pass onnx.checker, run in onnxruntime at sizes other than the traced one, and agree with
    torch in half of the dtype's digits; only then does the file appear. Weights above 1.5 GB go to a file
    beside it, `path` + ".data".

    Raises ExportError with the reason when any of this fails; whatever stood at `path` then stays as it was.
    """
    need("onnx", "onnxscript", "onnxruntime")
    path, problems, failures = Path(path), [], []
    with ready(model, inputs) as inputs, _batched_experts(model):
        for free in _freedoms(inputs) if batch_dynamic else [()]:
            try:
                with _silence():
                    return _export(model, inputs, path, free, note=" ".join(failures))
            except Exception as error:  # tracer, converter, checker and runtime raise all kinds
                if isinstance(error, DelayerError) and not isinstance(error, ExportError):
                    raise
                problems.append(error)
                failures.append(f"Not with a free {' and '.join(free)}: {_reason(error)}")
    raise ExportError(
        f"{type(model).__name__} could not be exported to {path}: {_reason(problems[-1])} Nothing was written. "
        "Change what it names (a Python branch on values, an operation or dtype unknown to ONNX), or skip it."
    ) from problems[-1]


@contextmanager
def _batched_experts(model: nn.Module) -> Iterator[None]:
    """Inside, the experts of transformers' mixtures are one batched product, which ONNX has; by default it is a grouped one."""
    configs = {
        id(m.config): m.config for m in model.modules() if getattr(m.config if hasattr(m, "config") else None, EXPERTS, None)
    }
    before = {key: getattr(config, EXPERTS) for key, config in configs.items()}
    try:
        for config in configs.values():
            setattr(config, EXPERTS, "batched_mm")
        yield
    finally:
        for key, config in configs.items():
            setattr(config, EXPERTS, before[key])


class _MainTensor(nn.Module):
    """The network with positional inputs and one output, which is what a graph has."""

    def __init__(self, model: nn.Module, names: list[str] | None):
        super().__init__()
        self.model, self.names = model, names
        takes_cache = "use_cache" in inspect.signature(model.forward).parameters
        self.run = partial(model, use_cache=False) if takes_cache else model

    def forward(self, *tensors: Tensor) -> Tensor:
        inputs = dict(zip(self.names, tensors, strict=True)) if self.names else tensors[0]
        return output_of(call(self.run, inputs))


def _is_ids(x: Tensor) -> bool:
    return x.ndim == 2 and not x.is_floating_point()


def _freedoms(inputs: Inputs) -> list[tuple[str, ...]]:
    """Which axes to leave free, in the order of trying; axis i of an input has the i-th name."""
    first = first_tensor(inputs)
    text = _is_ids(first) and first.shape[1] > 1  # the tracer takes a length of one for a constant
    return [("batch", "sequence"), ("batch",), ()] if text else [("batch",), ()]


def _export(model: nn.Module, inputs: Inputs, path: Path, free: tuple[str, ...], note: str) -> OnnxCheck:
    import onnx

    example = with_batch(inputs, 2) if free else inputs
    trials = [example]
    if free:
        trials += [with_batch(inputs, 1), with_batch(inputs, 3)]
    if "sequence" in free:
        trials.append(each_tensor(lambda x: x[:, :-1] if _is_ids(x) else x, example))
    names = None if isinstance(example, Tensor) else list(example)
    tensors = (example,) if isinstance(example, Tensor) else tuple(example.values())
    axes = [torch.export.Dim(axis) for axis in free]
    program = torch.onnx.export(
        _MainTensor(model, names).eval(),
        tensors,
        dynamic_shapes=(tuple(dict(enumerate(axes if _is_ids(x) else axes[:1])) for x in tensors),),
        input_names=names or ["input"],
        output_names=["output"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # which it is only with dynamo=False
    weights = [weight.const_value for weight in program.model.graph.initializers.values()]
    num_bytes = sum(value.nbytes for value in weights if value is not None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder) / path.name
        program.save(draft, external_data=num_bytes > SINGLE_FILE_BYTES)
        onnx.checker.check_model(str(draft), full_check=True)
        absolute, relative = _differences(model, draft, trials)
        parts = sorted(Path(folder).iterdir(), reverse=True)  # weights first, then the graph that names them
        size_bytes = sum(part.stat().st_size for part in parts)
        for part in parts:
            part.replace(path.with_name(part.name))
    return OnnxCheck(
        path=str(path),
        size_bytes=size_bytes,
        max_abs_difference=absolute,
        max_relative_difference=relative,
        batch_sizes=tuple(sorted({len(first_tensor(trial)) for trial in trials})),
        dynamic="batch" in free,
        dynamic_sequence="sequence" in free,
        note=note,
    )


def _differences(model: nn.Module, path: Path, trials: list[Inputs]) -> tuple[float, float]:
    """The largest absolute and the largest relative difference between torch and onnxruntime."""
    run, absolute, relative = ort_session(path), 0.0, 0.0
    for trial in trials:
        expected, found = output_of(call(model, trial)).cpu(), call(run, trial)
        if expected.shape != found.shape:
            raise ExportError(f"torch answers {list(expected.shape)}, onnxruntime {list(found.shape)}.")
        difference = (expected.double() - found.double()).abs().max().item()
        scale = expected.double().abs().max().item() or 1.0
        tolerance = torch.finfo(expected.dtype).eps ** 0.5 if expected.is_floating_point() else 0.0
        if not difference <= tolerance * scale:  # so that NaN is refused too
            raise ExportError(f"torch and onnxruntime differ by {difference:.3g}, where outputs reach {scale:.3g}.")
        absolute, relative = max(absolute, difference), max(relative, difference / scale)
    return absolute, relative


def _reason(error: BaseException) -> str:
    """The first line of the error that began it all; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    return first if isinstance(error, DelayerError) else f"{type(error).__name__}: {first.rstrip('.')}."


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress, graph dumps, logs and warnings off the screen; its errors tell enough."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
