"""Protocol A of RBA (Cannistraci et al., arXiv 2410.04941) on real weights: a new linear head for every cut network.

    python benchmarks/readout.py --data-root DIR | tee benchmarks/results/readout.txt

Two families (DeiT-tiny; MobileNetV2) on CIFAR-10, Fashion-MNIST and Imagenette: the original, and with one and two
blocks dropped or replaced by one affine map, fitted on the fit images. The head: Adam 1e-2, 5 epochs, batches of 256,
cross-entropy. A JSON line says where the numbers come from; the last lines are the table's rows as JSON. DIR holds
`images` and `weights`.
Fidelity: the paper reads its heads out on whole data sets, and has no convolutional family. The 500 images here are
two steps an epoch, ten in all. Both networks were trained on ImageNet, so Imagenette, whose images are of its training
split, shows what a cut loses and not more.
"""

import argparse
import json
import time
from pathlib import Path

from provenance import provenance
from torch import nn

from delayer.cutting import apply, plan_by_hand
from delayer.families import chain_of
from delayer.network.chain import Chain
from delayer.store import load
from delayer.tasks import Task, TaskOptions, open_task, task_of
from delayer.tuning.readout import ReadoutOptions, linear_readout

CUTS = {"DeiT-tiny": {1: "4", 2: "3:5"}, "MobileNetV2": {1: "8", 2: "8:10"}}
"""Blocks to cut, by hand: in the middle, and where both families keep their width."""


def networks(root: Path) -> dict[str, nn.Module]:
    """Both originals, in evaluation mode."""
    weights = root / "weights"
    return {
        "DeiT-tiny": load("timm:deit_tiny_patch16_224", weights=weights / "deit_tiny_patch16_224.safetensors"),
        "MobileNetV2": load("networks:mobilenet_v2", weights=weights / "mobilenet_v2_torchvision.safetensors"),
    }


def tasks(root: Path, model: nn.Module, options: TaskOptions) -> dict[str, Task]:
    """The three data sets, preprocessed as the network wants them."""
    images = root / "images"
    named = options.model_copy(update={"classes": str(images / "imagenet_wnids.txt")})
    cifar = f"npz:{images}/cifar10_{{}}.npz".format
    fashion = f"npz:{images}/fashion_mnist_14k.npz#{{}}".format
    return {
        "CIFAR-10": open_task(cifar("train20k"), model, options, test_spec=cifar("test")),
        "Fashion-MNIST": open_task(fashion("train"), model, options, test_spec=fashion("test")),
        "Imagenette": open_task(f"imagefolder:{images}/imagenette_train_1000", model, named),
    }


def read_once(task: Task) -> Task:
    """The same task with its batches in memory, since five networks read them."""
    splits = [[(batch.inputs, batch.labels) for batch in split] for split in task.splits.values()]
    return task_of(*splits, kind=task.kind)


def rows_of(name: str, chain: Chain, task: Task, options: ReadoutOptions) -> list[dict]:
    """A row a configuration: the original, then each cut."""
    cuts = [(0, "", "original")]
    cuts += [(num, span, operator) for num, span in CUTS[name].items() for operator in ("drop", "affine")]
    rows = []
    for num, span, operator in cuts:
        begun = time.monotonic()
        model = chain.model
        if span:
            plan = plan_by_hand(chain, [span], operator=operator, **({} if operator == "drop" else {"ridge": 1e-3}))
            model = apply(chain, plan, data=task.batches("fit"))
        result = linear_readout(model, task, options)
        rows.append(
            {
                "model": name,
                "cut": span,
                "operator": operator,
                "blocks_removed": num,
                "parameters": sum(p.numel() for p in model.parameters()),
                "validation_top1": result.validation.value,
                "test_top1": result.test.value,
                "test_interval": result.test.interval,
                "num_fit": task.batches("fit").num_samples,
                "num_test": result.test.num_samples,
                "seconds": round(time.monotonic() - begun, 1),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--num-fit", type=int, default=500)
    parser.add_argument("--num-validation", type=int, default=20)
    parser.add_argument("--num-test", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    options = TaskOptions(
        num_fit=given.num_fit, num_validation=given.num_validation, num_test=given.num_test, batch_size=50, seed=given.seed
    )
    print(json.dumps(provenance(given.seed, "torchvision", "timm")))
    print(f"\n{'network':12} {'data':14} {'cut':5} {'operator':9} {'parameters':>10} {'top-1 % (95 %)':>22} {'s':>6}")
    found = []
    for name, model in networks(given.data_root).items():
        chain = chain_of(model)
        for data, task in tasks(given.data_root, model, options).items():
            for row in rows_of(name, chain, read_once(task), ReadoutOptions(seed=given.seed)):
                found.append({"data": data, "seed": given.seed} | row)
                low, high = row["test_interval"]
                print(
                    f"{name:12} {data:14} {row['cut']:5} {row['operator']:9} {row['parameters']:10,} "
                    f"{row['test_top1']:9.1f} ({low:4.1f}–{high:5.1f}) {row['seconds']:6.1f}",
                    flush=True,
                )
    print()
    for row in found:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
