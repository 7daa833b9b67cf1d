"""How much a network still knows: a new linear head, trained on its frozen features."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from delayer.errors import DataError, ModelError, NotFiniteError
from delayer.network.calling import call, first_tensor, output_of, ready, seeded, with_batch
from delayer.network.hooks import hooked
from delayer.study import Grade, Record
from delayer.tasks import Task, grade_of
from delayer.tasks.answers import pooled
from delayer.tasks.outputs import Outputs
from delayer.tasks.regression import numbers_of
from delayer.tasks.splits import Batch


class ReadoutOptions(Record):
    """How the new head is trained; the defaults are the published protocol."""

    epochs: int = Field(default=5, gt=0)
    """Passes over the fit split's features."""
    learning_rate: float = Field(default=1e-2, gt=0)
    """Learning rate of Adam, constant."""
    batch_size: int = Field(default=256, gt=0)
    """Samples a step."""
    seed: int = 0
    """Decides the head's first weights and the order of the samples."""


@dataclass(frozen=True, eq=False)
class Readout:
    """A new head and its worth.

    head: reads features [n, width] and has one output a class, or one a target of regression; on the CPU.
    classes: the label that each of its outputs stands for; empty for regression.
    replaces: path of the network's own head, whose place it can take (`model.set_submodule(replaces, head)`);
    "" for a network without one, whose pooled answer it reads.
    validation, test: its accuracy there, among these classes, or its R².
    """

    head: nn.Linear
    classes: tuple[int, ...]
    replaces: str
    validation: Grade
    test: Grade


def linear_readout(
    model: nn.Module,
    task: Task,
    options: ReadoutOptions | None = None,
    *,
    device: torch.device | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Readout:
    """A linear head trained on the features that the network's own head reads; all before it is frozen.

    It has an output for each class of the fit split, however many the network's own head has; a class that is
    not in the fit split is never met. Nothing is chosen, so both accuracies are held out. For regression it is the
    least-squares head of the targets (ridge 1e-6 of the features' mean square), whatever the options.
    device: where the features are made; by default where the model is. The head is trained on the CPU.
    progress: called with (batches done, batches in all).
    Raises DataError for data without labels, ModelError for a network without a linear head, NotFiniteError.
    Source: RBA (Cannistraci et al., arXiv 2410.04941), protocol A: Adam 1e-2, 5 epochs, batches of 256,
    cross-entropy, a new head for every configuration.
    """
    options = options or ReadoutOptions()
    splits = {name: task.batches(name) for name in ("fit", "validation", "test")}
    path = "" if task.kind == "embedding" else head_path(model, splits["fit"][0])
    total, done = sum(map(len, splits.values())), 0
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with _features(model, path, device) as features:
        for name, split in splits.items():
            parts = []
            for batch in split:
                if batch.labels is None:
                    raise DataError(
                        f"A new head learns from labels, which the {name} split of {task.name} lacks. "
                        "Give data with labels; names of classes may need --classes FILE."
                    )
                parts.append((features(batch), batch.labels))
                done += 1
                if progress:
                    progress(done, total)
            seen[name] = torch.cat([rows for rows, _ in parts]), torch.cat([labels for _, labels in parts])
            if not torch.isfinite(seen[name][0]).all():
                raise NotFiniteError(f"NaN or infinity among the features of the {name} split. Check the weights and the data.")
    rows, labels = seen["fit"]
    if task.kind == "regression":
        head = least_squares_head(rows, labels.flatten(1) if labels.ndim > 1 else labels[:, None])
        validation, test = (_grade_numbers(head, *seen[name], name, task, options) for name in ("validation", "test"))
        return Readout(head, (), path, validation, test)
    classes, targets = labels.unique(return_inverse=True)
    head = train_head(rows, targets, options)
    validation = _grade(head, classes, *seen["validation"], "validation", task, options)
    test = _grade(head, classes, *seen["test"], "test", task, options)
    return Readout(head, tuple(classes.tolist()), path, validation, test)


def train_head(features: Tensor, targets: Tensor, options: ReadoutOptions) -> nn.Linear:
    """A linear layer from features [n, width] to classes 0 .. max(targets), by Adam and cross-entropy."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(options.seed)
        head = nn.Linear(features.shape[1], int(targets.max()) + 1)
        optimizer = torch.optim.Adam(head.parameters(), options.learning_rate)
        for _ in range(options.epochs):
            for rows in torch.randperm(len(features)).split(options.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(head(features[rows]), targets[rows]).backward()
                optimizer.step()
    return head.requires_grad_(False)


def least_squares_head(features: Tensor, targets: Tensor) -> nn.Linear:
    """The linear layer from features [n, width] to targets [n, numbers] with the least squared error, in closed form."""
    x, y = features.double(), targets.double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    gram = x.T @ x
    energy = float(gram.trace()) / len(gram)
    eye = torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram / energy + 1e-6 * eye, x.T @ y / energy).T if energy else y.new_zeros(y.shape[1], len(gram))
    head = nn.Linear(x.shape[1], y.shape[1])
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(mean_y - weight @ mean_x)
    return head.requires_grad_(False)


def head_path(model: nn.Module, batch: Batch) -> str:
    """Path of the head: the last linear layer in a forward pass whose answer is shaped as the network's.

    Raises ModelError when there is none.
    """
    shapes: dict[str, torch.Size] = {}

    def note(path):
        def hook(module, args, output):
            shapes.pop(path, None)  # so that the last call comes last
            shapes[path] = output.shape

        return hook

    layers = [(module, note(path)) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    with hooked(after=layers), ready(model, with_batch(batch.inputs, 2)) as inputs:
        shape = output_of(call(model, inputs)).shape
    found = [path for path, its in shapes.items() if its == shape and len(its) == 2]
    if not found:
        raise ModelError(
            f"None of the {len(shapes)} linear layers that ran in {type(model).__name__} gives its answer "
            f"{list(shape)}, so it has no head to replace. Use a network that ends in torch.nn.Linear."
        )
    return found[-1]


@contextmanager
def _features(model: nn.Module, path: str, device: torch.device | str | None) -> Iterator[Callable[[Batch], Tensor]]:
    """Inside: a function that gives a batch's features [n, width], in float32 on the CPU."""
    caught: list[Tensor] = []

    def features(batch: Batch) -> Tensor:
        batch = batch.to(first_tensor(spot).device)
        with seeded(batch.start):
            answer = output_of(call(model, batch.inputs))
        found = caught.pop() if path else pooled(answer, batch.mask_for(answer.shape[1]))
        caught.clear()
        return found.float().cpu()

    heads = [model.get_submodule(path)] if path else []
    catching = hooked(before=[(head, lambda _, args, kwargs: caught.append(args[0])) for head in heads])
    with ready(model, torch.empty(0), device) as spot, catching:
        yield features


def _grade(
    head: nn.Linear, classes: Tensor, features: Tensor, labels: Tensor, split: str, task: Task, options: ReadoutOptions
) -> Grade:
    top1 = classes[head(features).argmax(1)]
    nothing, num = torch.empty(0, dtype=torch.long), len(labels)
    kind = "text-classification" if task.kind == "embedding" else task.kind  # with a head, vectors become classes
    outputs = Outputs(kind, split, num, torch.arange(num), top1, labels, None, nothing, nothing)
    grade = grade_of(outputs, seed=options.seed)
    return grade.model_copy(update={"name": f"{grade.name} of a new head, {len(classes):,} classes"})


def _grade_numbers(head: nn.Linear, features: Tensor, labels: Tensor, split: str, task: Task, options: ReadoutOptions) -> Grade:
    (values, output), (truth, _) = numbers_of(head(features)), numbers_of(labels.float().reshape(len(labels), -1))
    num, nothing = len(labels), torch.empty(0, dtype=torch.long)
    outputs = Outputs(task.kind, split, num, torch.arange(num), nothing, truth, None, nothing, values, output=output)
    grade = grade_of(outputs, seed=options.seed)
    return grade.model_copy(update={"name": f"{grade.name} of a new head"})
