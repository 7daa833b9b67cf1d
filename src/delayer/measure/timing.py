"""How fast a network is beside another: paired, interleaved runs, medians, an interval for the speed-up."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

from delayer.errors import DataError, ExportError
from delayer.network.calling import Inputs, call, first_tensor, output_of, ready, with_batch
from delayer.study import LatencyInfo

Engine = Literal["torch", "onnxruntime"]

MIN_ROUNDS, MAX_ROUNDS, RESAMPLES = 5, 2000, 1000


def latency(
    models: Mapping[str, Callable],
    inputs: Inputs,
    *,
    seconds: float = 3.0,
    rounds: int | None = None,
    warmup: int = 3,
    device: torch.device | str | None = None,
    threads: int | None = None,
    engine: Engine = "torch",
    seed: int = 0,
) -> dict[str, LatencyInfo]:
    """How fast each further model is beside the first, the original: {its name: the comparison}, in ms.

    A round runs all models forwards and then backwards (A B B A, in the next one B A A B), so that a drifting
    clock cancels. A model's ratio in a round is the original's two runs over its own two. Rounds go on for
    `seconds`, though at least 5 and at most 2,000, or number exactly `rounds`. The speed-up is the median
    ratio, its 95 % interval a percentile bootstrap over rounds (Efron, 1979). Times are over single runs.

    The interval covers noise between runs, not what stays the same through all of them: through where their
    weights lie, two copies of one network may differ by 1 %, two ONNX sessions of one graph by 4 % (measured
    with MiniLM), and tiny networks on several threads by more.

    `threads` holds for torch; an ONNX session has its own, and then `engine` and `threads` are only recorded.
    Raises DataError when there are fewer than two models or no rounds.
    """
    if len(models) < 2:
        raise DataError(
            f"Latency compares the original with other networks; found {len(models)} in all. "
            "Pass at least two, the original first."
        )
    if rounds is not None and rounds < 1:
        raise DataError(f"Latency was asked for {rounds} rounds. Ask for at least one, or leave it to `seconds`.")
    with ExitStack() as stack:
        stack.enter_context(_threads(threads))
        pairs = [(model, stack.enter_context(ready(model, inputs, device))) for model in models.values()]
        outputs: list[Tensor] = []
        for _ in range(max(warmup, 1)):
            outputs = [output_of(call(model, x)) for model, x in pairs]
        ms = _rounds(pairs, seconds, rounds)
        info = partial(
            LatencyInfo,
            engine=engine,
            batch_size=len(first_tensor(inputs)),
            threads=torch.get_num_threads(),
            device=str(outputs[0].device),
            dtype=str(outputs[0].dtype).removeprefix("torch."),
            num_rounds=len(ms),
        )
    return {name: info(**_comparison(ms[:, 0], ms[:, i], seed)) for i, name in enumerate(models) if i > 0}


def compare_latency(
    original: nn.Module,
    cut: nn.Module,
    inputs: Inputs,
    batch_sizes: Sequence[int] = (1, 16),
    *,
    engine: Engine = "torch",
    seconds: float = 3.0,
    device: torch.device | str | None = None,
    threads: int | None = None,
    seed: int = 0,
) -> list[LatencyInfo]:
    """One comparison, as by `latency`, for each batch size; the inputs are repeated or cut short to fit.

    With engine="onnxruntime" both networks are exported first and run on the CPU, whatever `device` says.
    Raises ExportError when one cannot be exported for these batch sizes.
    """
    networks = {"original": original, "cut": cut}
    models: Mapping[str, Callable] = networks
    with TemporaryDirectory() as folder:
        if engine == "onnxruntime":
            models = {
                name: _session(model, inputs, Path(folder) / f"{name}.onnx", batch_sizes, threads)
                for name, model in networks.items()
            }
        records = [
            latency(models, batch, seconds=seconds, device=device, threads=threads, engine=engine, seed=seed)
            for batch in (with_batch(inputs, size) for size in batch_sizes)
        ]
    return [record["cut"] for record in records]


def _session(
    model: nn.Module, inputs: Inputs, path: Path, batch_sizes: Sequence[int], threads: int | None
) -> Callable[..., Tensor]:
    from delayer.measure.onnx import export_onnx, ort_session

    check = export_onnx(model, inputs, path)
    if not check.dynamic and set(batch_sizes) - set(check.batch_sizes):
        raise ExportError(
            f"Latency was asked for batch sizes {', '.join(map(str, batch_sizes))}, but the graph of the "
            f"{path.stem} network takes only {check.batch_sizes[0]}: {check.note} Ask for that size alone."
        )
    return ort_session(path, threads)


def _rounds(pairs: list[tuple[Callable, Inputs]], seconds: float, rounds: int | None) -> Tensor:
    """Run times in ms, [rounds, models, 2]."""
    times: list[list[tuple[float, float]]] = []
    deadline = time.perf_counter() + seconds
    while len(times) < (rounds or MIN_ROUNDS) or (rounds is None and len(times) < MAX_ROUNDS and time.perf_counter() < deadline):
        # Whoever begins a round finds caches that our own bookkeeping has cooled, so they take turns.
        order = range(len(pairs)) if len(times) % 2 == 0 else range(len(pairs))[::-1]
        there = {i: _run_ms(*pairs[i]) for i in order}
        back = {i: _run_ms(*pairs[i]) for i in reversed(order)}
        times.append([(there[i], back[i]) for i in range(len(pairs))])
    return torch.tensor(times, dtype=torch.float64)


def _run_ms(model: Callable, inputs: Inputs) -> float:
    device = first_tensor(inputs).device
    _wait_for(device)
    begin = time.perf_counter()
    call(model, inputs)
    _wait_for(device)
    return (time.perf_counter() - begin) * 1e3


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":  # accelerators answer before they are done
        torch.accelerator.synchronize(device)


@contextmanager
def _threads(num: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Comparison(TypedDict):
    original_ms: float
    original_quartiles_ms: tuple[float, float]
    cut_ms: float
    cut_quartiles_ms: tuple[float, float]
    speedup: float
    speedup_interval: tuple[float, float]


def _comparison(original: Tensor, cut: Tensor, seed: int) -> _Comparison:
    """The record's numbers, from run times [rounds, 2] in ms."""
    ratios = original.sum(1) / cut.sum(1)
    generator = torch.Generator().manual_seed(seed)
    resampled = torch.randint(len(ratios), (RESAMPLES, len(ratios)), generator=generator)
    medians = ratios[resampled].quantile(0.5, dim=1)
    return {
        "original_ms": original.quantile(0.5).item(),
        "original_quartiles_ms": _quantiles(original, 0.25, 0.75),
        "cut_ms": cut.quantile(0.5).item(),
        "cut_quartiles_ms": _quantiles(cut, 0.25, 0.75),
        "speedup": ratios.quantile(0.5).item(),
        "speedup_interval": _quantiles(medians, 0.025, 0.975),
    }


def _quantiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    found = values.quantile(values.new_tensor((low, high)))
    return found[0].item(), found[1].item()
