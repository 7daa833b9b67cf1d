"""What is asked of a fine-tune: whether something teaches, and what decides the result."""

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256

from torch import nn

from delayer.errors import BudgetError, DataError, ModelError
from delayer.network.hashing import model_hash
from delayer.network.mapped import is_mapped
from delayer.tasks import Task
from delayer.tuning.options import TuneOptions


def check_in_memory(model: nn.Module) -> None:
    """Raises BudgetError for a network whose weights lie in files: training holds them all, their gradients and its own state."""
    if is_mapped(model):
        raise BudgetError(
            f"The weights of this {type(model).__name__} stay in their files (--by-block), while fine-tuning holds all of them, "
            "their gradients and what the optimiser remembers in memory. Repair it in closed form alone, or use --by-block no "
            "where there is memory for four times its float32 weights."
        )


def check_taught(
    model: nn.Module, task: Task, teacher: nn.Module | None, options: TuneOptions, counterparts: Mapping[str, str] | None
) -> None:
    """Raises DataError when nothing teaches, ModelError when the network would teach itself, BudgetError (`check_in_memory`)."""
    check_in_memory(model)
    if teacher is model:
        raise ModelError("A network cannot be its own teacher. Pass a copy made before it was cut.")
    if options.hidden_weight and not (teacher and counterparts):
        raise DataError(
            f"hidden_weight={options.hidden_weight:g} compares hidden states with a teacher's, but there is no "
            f"{'pair of them' if teacher else 'teacher'}. Pass teacher=ORIGINAL and counterparts=counterparts(chain, plan)."
        )
    labelled = task.kind in ("causal-lm", "seq2seq") or (task.has_labels and task.kind != "embedding")
    taught = teacher is not None and (options.teacher_weight or options.hidden_weight)
    if not (taught or (labelled and options.label_weight)):
        raise DataError(
            f"Fine-tuning has nothing to learn from: {'no' if teacher is None else 'a'} teacher of weight "
            f"{options.teacher_weight:g}, {'labels' if labelled else 'no labels'} of weight "
            f"{options.label_weight:g}. Pass teacher=ORIGINAL, or labels, with a weight above 0."
        )


def asked_of(
    model: nn.Module,
    task: Task,
    teacher: nn.Module | None,
    options: TuneOptions,
    counterparts: Mapping[str, str] | None,
    only: Collection[str] | None,
    seed: int,
) -> dict[str, str]:
    """All that decides the result, by name, as short texts: options, seed, and fingerprints of networks and data."""

    def short(texts: Iterable[str]) -> str:
        return sha256(" ".join(sorted(texts)).encode()).hexdigest()[:16]

    settings = options.model_dump(exclude={"checkpoint_steps"})
    return {name: str(value) for name, value in settings.items()} | {
        "network": model_hash(model),
        "teacher": "" if teacher is None else model_hash(teacher),
        "data": task.hash,
        "parameters": "all" if only is None else short(only),
        "seed": str(seed),
        "counterparts": short(f"{mine} {theirs}" for mine, theirs in (counterparts or {}).items()),
    }
