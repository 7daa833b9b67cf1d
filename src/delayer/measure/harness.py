"""Public benchmarks of language models: lm-evaluation-harness on two networks in memory, sample by sample beside each other."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from delayer.errors import DataError, ModelError
from delayer.libraries import first_line, library
from delayer.study import HarnessInfo

RESAMPLES = 1000
"""Resamples of the samples for the interval of a difference."""


def compare_on_tasks(
    original: nn.Module,
    cut: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    batch_size: int = 8,
    limit: int | None = None,
    seed: int = 0,
) -> list[HarnessInfo]:
    """Every metric of lm-evaluation-harness tasks for both networks, with the paired interval of what was lost.

    tasks: names that the harness knows, or paths of task files (YAML; one may name Python code that the harness then runs).
    limit: so many samples of each task at most. Networks stay where they are and in the precision of their weights.
    The interval is that of the mean difference over samples; None for a metric that is no mean over samples (perplexities).
    Raises ModelError without the library, DataError for a task that does not load or run.
    """
    found = [_evaluated(model, tokenizer, tasks, batch_size, limit, seed) for model in (original, cut)]
    rows = []
    for task, values in found[0]["results"].items():
        better = found[0]["higher_is_better"].get(task, {})
        for key in values:
            metric, _, kind = key.partition(",")
            both = [one["results"][task].get(key) for one in found]
            if not kind or metric.endswith("_stderr") or not all(isinstance(one, int | float) for one in both):
                continue
            by_sample = [_by_sample(one, task, metric, kind) for one in found]
            rows.append(
                HarnessInfo(
                    task=task,
                    metric=metric if kind == "none" else f"{metric} ({kind})",
                    num_samples=len(found[0]["samples"].get(task, ())),
                    higher_is_better=better.get(metric),
                    original=float(both[0]),
                    cut=float(both[1]),
                    difference_interval=_interval(by_sample, float(both[1]) - float(both[0]), seed),
                )
            )
    return rows


def _evaluated(model: nn.Module, tokenizer: Any, tasks: Sequence[str], batch_size: int, limit: int | None, seed: int) -> Any:
    with _quiet():
        harness, ways = library("lm_eval", "lm-eval"), library("lm_eval.models.huggingface", "lm-eval")
        was_training = model.training
        try:
            return harness.simple_evaluate(
                ways.HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=batch_size, max_length=_longest(model)),
                tasks=list(tasks),
                limit=limit,
                bootstrap_iters=0,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except Exception as error:  # whatever a task, its data or the harness raises
            raise DataError(
                f"lm-evaluation-harness could not run {', '.join(tasks)} ({type(error).__name__}: {first_line(error)}). "
                "Name tasks as `lm_eval ls tasks` does, or a task file; data sets that are not on this machine need a connection."
            ) from error
        finally:
            model.train(was_training)


def _longest(model: nn.Module) -> int | None:
    return getattr(getattr(model, "config", None), "max_position_embeddings", None)


def _by_sample(found: Mapping[str, Any], task: str, metric: str, kind: str) -> dict[Any, float]:
    """A metric of each document; empty where it has none of its own."""
    rows = (row for row in found["samples"].get(task, ()) if row.get("filter", "none") == kind)
    return {row["doc_id"]: float(row[metric]) for row in rows if isinstance(row.get(metric), int | float)}


def _interval(by_sample: Sequence[Mapping[Any, float]], difference: float, seed: int) -> tuple[float, float] | None:
    """95 % interval of the mean difference by bootstrap over documents, where that mean is what the metrics differ by."""
    if not by_sample[0] or by_sample[0].keys() != by_sample[1].keys():
        return None
    gaps = torch.tensor([by_sample[1][doc] - one for doc, one in by_sample[0].items()], dtype=torch.float64)
    if abs(float(gaps.mean()) - difference) > 1e-6:  # something else than the mean is reported
        return None
    drawn = torch.randint(len(gaps), (RESAMPLES, len(gaps)), generator=torch.Generator().manual_seed(seed))
    low, high = gaps[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness and the libraries under it say nothing but errors inside, and draw no bars."""
    bars, level = os.environ.get("TQDM_DISABLE"), logging.root.manager.disable
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        if bars is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = bars


def tokenizer_for(folder: Any) -> Any:
    """The tokenizer that travels with a saved network. Raises ModelError where none does."""
    transformers = library("transformers", "text")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"No tokenizer lies in {folder}, which tasks of lm-eval need ({first_line(error)}).") from error
