"""Does the pattern of similarities belong to the network or to the data? Correlations between data sets.

RBA claims that it belongs to the architecture (Cannistraci et al., arXiv 2410.04941). Shown for DeiT-tiny and MobileNetV2
on ImageNet images, CIFAR-10 and Fashion-MNIST.

    python benchmarks/patterns.py --data-root DIR
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from provenance import provenance

import delayer
from delayer.progress import Reporter
from delayer.stages import open_work, score_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=192)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    root = given.data_root.resolve()
    images, weights = root / "images", root / "weights"
    data = [
        f"imagefolder:{images}/imagenet_train_1000",
        f"npz:{images}/cifar10_test.npz",
        f"npz:{images}/fashion_mnist_14k.npz#test",
    ]
    networks = {
        "DeiT-tiny": ("timm:deit_tiny_patch16_224", weights / "deit_tiny_patch16_224.safetensors"),
        "MobileNetV2": ("benchmarks.networks:mobilenet_v2", weights / "mobilenet_v2_torchvision.safetensors"),
    }
    options = delayer.TaskOptions(labels=False, num_fit=given.num_samples, num_validation=8, num_test=8)
    for name, (model, file) in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            work = open_work(
                model,
                data,
                out=folder,
                load_options=delayer.LoadOptions(weights=str(file)),
                task_options=options,
                reporter=Reporter(quiet=False),
            )
            for row in score_stage(work).correlations:
                short = {k: Path(row[k].partition(":")[2]).name for k in ("first", "second")}
                print(json.dumps({"network": name, **row, **short, "samples": given.num_samples}), flush=True)
    print(json.dumps(provenance(0, "timm", "torchvision")))


if __name__ == "__main__":
    main()
