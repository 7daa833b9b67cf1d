"""Activations removed against accuracy: published schedules and ours under one protocol, with paired intervals.

    python benchmarks/shrink.py curve --data-root DIR [--network resnet20 | mobilenet_v2]
    python benchmarks/shrink.py budget --data-root DIR

`curve`: every schedule removes the same number of activations in the same rounds, with the same epochs; the test images are
graded after each round, and nothing is chosen by them. `budget`: EASIER with E epochs a removal against ours with a twentieth
of all its epochs. Intervals (95 %) are of the difference in accuracy, resampled over test images and seeds, both paired.
Curves are kept under --out and not run again; two processes share them. Prints seeds, versions and machine.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESAMPLES = 2000
NETWORKS = {
    "resnet20": dict(
        model="benchmarks.networks:cifar_resnet20",
        weights="weights/cifar_resnet20.safetensors",
        data="npz:{root}/images/cifar10_train20k.npz",
        test="npz:{root}/images/cifar10_test.npz",
        classes=None,
        task=dict(num_fit=2000, num_validation=500, num_test=4000, batch_size=50),
    ),
    "mobilenet_v2": dict(
        model="benchmarks.networks:mobilenet_v2_at_128",
        weights="weights/mobilenet_v2_torchvision.safetensors",
        data="imagefolder:{root}/images/imagenette_train_1000",
        test=None,
        classes="images/imagenet_wnids.txt",
        task=dict(num_fit=500, num_validation=150, num_test=350, batch_size=25),
    ),
}


def opened(given: argparse.Namespace):
    """The network with its data, in this process."""
    import torch

    from delayer.progress import Reporter
    from delayer.stages.options import LoadOptions
    from delayer.stages.work import open_work
    from delayer.tasks.options import TrainingTaskOptions

    torch.set_num_threads(1)
    facts = NETWORKS[given.network]
    data, test = (facts[key] and facts[key].format(root=given.data_root) for key in ("data", "test"))
    return open_work(
        facts["model"],
        [data],
        out=given.out,
        test=test,
        reporter=Reporter(quiet=True),
        load_options=LoadOptions(weights=str(given.data_root / facts["weights"])),
        task_options=TrainingTaskOptions(
            **facts["task"], seed=0, classes=facts["classes"] and given.data_root / facts["classes"]
        ),
    )


def one_curve(given: argparse.Namespace, name: str, seed: int, options) -> str:
    """One schedule with one seed, in a process of its own; which test images are right goes to a file a round."""
    import torch

    from delayer.stages.compare import curve
    from delayer.tasks import predictions

    work, begin = opened(given), time.monotonic()
    reference = predictions(work.model, work.task.batches("test"))
    rows, _ = curve(
        work,
        name,
        seed,
        options,
        reference,
        see=lambda row, outputs: torch.save(outputs.top1 == outputs.truth, hits_path(given, name, seed, row.num_removed)),
    )
    return (
        f"{name}, seed {seed}: "
        + ", ".join(f"{row.num_removed}: {row.grade.value:.2f}" for row in rows)
        + f" ({time.monotonic() - begin:.0f} s)"
    )


def hits_path(given: argparse.Namespace, name: str, seed: int, removed: int) -> Path:
    return given.out / f"{name}-{seed}-{removed}.pt"


def run_all(given: argparse.Namespace, jobs: list[tuple]) -> None:
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(one_curve, given, *job) for job in jobs]:
            print("#", done.result(), flush=True)


def differences(ours: list[list[Path]], other: list[list[Path]]) -> tuple[list[float], list[tuple]]:
    """Ours minus another, percentage points: at each point of the curve and over all, with intervals.

    ours, other: [seeds][points], the files of right answers.
    """
    import torch

    gap = torch.stack(
        [
            torch.stack([torch.load(a).double() - torch.load(b).double() for a, b in zip(one, two, strict=True)])
            for one, two in zip(ours, other, strict=True)
        ]
    )  # [seeds, points, images]
    seeds, _, images = gap.shape
    generator, draws = torch.Generator().manual_seed(0), []
    for _ in range(RESAMPLES):
        some = torch.randint(seeds, (seeds,), generator=generator)
        draws.append(gap[some][:, :, torch.randint(images, (images,), generator=generator)].mean((0, 2)))
    draws, means = 100 * torch.stack(draws), 100 * gap.mean((0, 2))
    draws, means = torch.cat([draws, draws.mean(1, keepdim=True)], 1), torch.cat([means, means.mean()[None]])
    low, high = draws.quantile(0.025, 0), draws.quantile(0.975, 0)
    return means.tolist(), list(zip(low.tolist(), high.tolist(), strict=True))


def curve_command(given: argparse.Namespace) -> None:
    from delayer.report import render
    from delayer.stages.compare import CompareOptions, compare_stage
    from delayer.stages.work import write_study

    options = CompareOptions(
        schedules=given.schedules,
        remove=given.remove,
        a_round=given.a_round,
        epochs=given.epochs,
        seeds=given.seeds,
        rates=given.rates,
    )
    names = given.schedules.split(",")
    begin = time.monotonic()
    run_all(given, [(name, seed, options) for seed in range(given.seeds) for name in names])
    work = opened(given)
    write_study(work)
    comparison = compare_stage(work, options)  # every curve is there already
    render(work.study.folder)
    points = sorted({row.num_removed for row in comparison.rows if row.schedule == "ours"})
    print(
        f"\n{given.network}: {comparison.original.value:.2f} % on {comparison.original.num_samples} test images, "
        f"{comparison.num_sites} activations, {comparison.params / 1e6:.3f} M parameters, {comparison.macs / 1e6:.1f} M "
        f"multiply-adds; {given.epochs} epochs of {work.task.batches('fit').num_samples} images a round, {given.seeds} seeds; "
        "means over seeds\n"
    )
    head = "".join(f"{f'-{point}':>8}" for point in points)
    print(f"{'schedule':12}{head}{'mean':>8}{'layers gone':>13}{'params M':>10}{'MACs M':>8}{'speed-up':>10}{'s a curve':>11}")
    for name in names:
        rows = [row for row in comparison.rows if row.schedule == name]
        means = [sum(row.grade.value for row in rows if row.num_removed == p) / given.seeds for p in points]
        last = [row for row in rows if row.num_removed == points[-1]]

        def mean(key, last=last):
            return sum(getattr(row, key) for row in last) / len(last)

        print(
            f"{name:12}" + "".join(f"{value:8.2f}" for value in means) + f"{sum(means) / len(means):8.2f}"
            f"{mean('num_merged'):13.1f}{mean('params') / 1e6:10.4f}{mean('macs') / 1e6:8.1f}{mean('speedup'):9.2f}×"
            f"{mean('seconds'):11.0f}"
        )
    print("\nours minus another, percentage points, with 95 % intervals; the last column is the mean over the curve")
    for name in names:
        if name != "ours":
            files = [
                [[hits_path(given, which, seed, point) for point in points] for seed in range(given.seeds)]
                for which in ("ours", name)
            ]
            print(
                f"{name:12}"
                + "".join(
                    f"{mean:+8.2f} ({low:+.2f} to {high:+.2f})" for mean, (low, high) in zip(*differences(*files), strict=True)
                )
            )
    print(f"\n{time.monotonic() - begin:.0f} s with {given.workers} processes; report {given.out / 'report.html'}")


def budget_command(given: argparse.Namespace) -> None:
    from delayer.stages.compare import CompareOptions

    k, epochs = given.remove, given.epochs
    theirs = CompareOptions(remove=k, a_round=1, epochs=epochs)
    ours = CompareOptions(remove=k, a_round=k, epochs=epochs * k // 20)
    begin = time.monotonic()
    run_all(
        given, [(name, seed, options) for seed in range(given.seeds) for name, options in (("easier", theirs), ("ours", ours))]
    )
    files = [[[hits_path(given, name, seed, k)] for seed in range(given.seeds)] for name in ("ours", "easier")]
    means, intervals = differences(*files)
    print(
        f"{given.network}, {k} activations: EASIER {epochs} epochs a removal, {epochs * k} in all; ours {ours.epochs} in all; "
        f"{given.seeds} seeds"
    )
    print(f"ours minus EASIER on test images: {means[0]:+.2f} points ({intervals[0][0]:+.2f} to {intervals[0][1]:+.2f})")
    print(f"{time.monotonic() - begin:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = os.environ.get("DELAYER_DATA")
    parser.add_argument("command", choices=["curve", "budget"])
    parser.add_argument("--data-root", type=Path, default=root, required=root is None)
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet20")
    parser.add_argument("--schedules", default="easier,tlc,nepenthe,folding,random,ours")
    parser.add_argument("--remove", type=int, default=0, help="activations in all: 12, or 4 for budget")
    parser.add_argument("--a-round", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="of a round, or for budget of one of EASIER's: 2, or 10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", default="", help="as of `delayer compare`")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    given.data_root = Path(given.data_root).resolve()
    curves = given.command == "curve"
    given.remove, given.epochs = given.remove or (12 if curves else 4), given.epochs or (2 if curves else 10)
    given.out = (given.out or Path("benchmark-studies") / f"shrink-{given.command}-{given.network}").resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    from provenance import provenance

    print("#", " ".join(["python", "benchmarks/shrink.py", *sys.argv[1:]]).replace(str(given.data_root), "DATA"))
    (curve_command if curves else budget_command)(given)
    print(json.dumps(provenance(0, "torchvision")))


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    main()
