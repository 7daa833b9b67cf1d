"""A study and a search for the fuzzer, small and built once, and all that reads them."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import delayer
from delayer import cli
from delayer.errors import DelayerError
from delayer.shrinking.rounds import Rounds
from delayer.tuning.training import Training
from tests.fuzzing import Outcome, alike, damage_, outcome

NETWORK = "tests.tiny:network"
FEW = ["--num-fit", "24", "--num-validation", "16", "--num-test", "16"]
CHECK = ["--seconds", "0.01", "--no-onnx"]
PLAN = ["--remove", "blocks=1", "--effort", "1", "--no-try-onnx"]
SHRINK = ["--epochs", "1", "--remove", "2", "--a-round", "1", "--tolerance", "100", *CHECK]
TUNE = ["--epochs", "2", "--checkpoint-steps", "1"]
TELLING = ("changed", "damaged", "eft out", "again", "newer", "other")


def command(*words: Any) -> str:
    """Run the command line here, and get what it said of files. Raises DelayerError with the sentence that it ended in."""
    before, err = sys.argv, StringIO()
    sys.argv = ["delayer", *map(str, words)]
    code: Any = 0
    try:
        with redirect_stdout(StringIO()), redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    lines = err.getvalue().splitlines()
    if code == 2 and (said := [line for line in lines if line.startswith("delayer: ")]):
        raise DelayerError(said[0])
    if code:
        raise RuntimeError(f"exit code {code}: {lines[-3:]}")
    return "\n".join(line for line in lines if any(word in line for word in TELLING))


def answers(folder: Path) -> list[list[float]]:
    """What a saved network says to the same few inputs."""
    model = delayer.load(str(folder))
    with torch.no_grad():
        return model(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))).tolist()


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


# Readers: the folder → its answer, and what was said of files


def load(folder: Path) -> tuple[Any, str]:
    return answers(folder / "model"), ""


def report(folder: Path) -> tuple[Any, str]:
    (folder / "report.html").unlink(missing_ok=True)
    command("report", folder)
    page = (folder / "report.html").read_text()
    alerts = [part.partition("<")[0] for part in page.split('role="alert">')[1:]]
    return page.rpartition("</script>")[0].rpartition("<script")[2] + page.partition("<body")[2], "\n".join(alerts)


def cut(folder: Path) -> tuple[Any, str]:
    said = command("cut", folder)
    return answers(folder / "model"), said


def check(folder: Path) -> tuple[Any, str]:
    said = command("check", folder, *CHECK)
    found = _json(folder / "results.json")
    costs = [[found[which][name] for name in ("params", "macs", "num_blocks", "grade")] for which in ("original", "cut")]
    return [costs, found["edits"], [proof["passed"] for proof in found["proofs"]], answers(folder / "model")], said


def tune(folder: Path) -> tuple[Any, str]:
    said = command("tune", folder, *TUNE)
    return [_json(folder / "tune.json"), answers(folder / "model")], said


def plan(folder: Path) -> tuple[Any, str]:
    said = command("plan", folder, *PLAN)
    return [_json(folder / "plan.json"), _json(folder / "candidates.json")], said


def shrink(folder: Path) -> tuple[Any, str]:
    said = command("shrink", folder, *SHRINK)
    rounds = _json(folder / "shrink.json")["rounds"]
    rounds = [[one[key] for key in ("sites", "before", "after", "kept", "left")] for one in rounds]
    return [rounds, answers(folder / "model")], said


def search(folder: Path) -> tuple[Any, str]:
    found = _search(folder)
    return [[t.slot, t.candidate, t.state, t.accuracy, t.msrs, t.params] for t in found.trials] + [found.winner], ""


def search_page(folder: Path) -> tuple[Any, str]:
    from delayer.report import render_nas

    return render_nas(folder).read_text().partition("<body")[2], ""


def winner(folder: Path) -> tuple[Any, str]:
    from delayer.nas import load_winner

    model = load_winner(folder)
    with torch.no_grad():
        return model(torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))).tolist(), ""


def _search(folder: Path) -> Any:
    from delayer import nas
    from delayer.nas import NasTaskOptions, ProxyOptions, SearchOptions, SpaceOptions

    return nas.search(
        f"npz:{folder.parent / 'data.npz'}",
        out=folder,
        space=SpaceOptions(space="depth_width", depths=(1, 2), widths=(2, 4), stages=1),
        proxy=ProxyOptions(epochs=1, augment=False, score_batch_size=8),
        task=NasTaskOptions(num_fit=24, num_validation=16, num_test=16, batch_size=8),
        options=SearchOptions(trials=2, latency_rounds=1, latency_batch=1, threads=1),
    )


TOP = ("study.json", "scores.json", "scan.json", "candidates.json", "results.json", ".stages.json")
MODEL = ("model/delayer.json", "model/plan.json", "model/model.safetensors")
READERS: dict[str, tuple[Callable[[Path], tuple[Any, str]], str, tuple[str, ...], int]] = {
    "load": (load, "run", MODEL, 40),
    "report": (report, "run", TOP, 6),
    "report of a shrinking": (report, "shrunk", ("sites.json", "shrink.json", "compare.json", "study.json"), 3),
    "cut": (cut, "run", ("study.json", "plan.json", ".stages.json", *MODEL), 6),
    "check": (check, "run", ("study.json", "plan.json", "results.json", "tune.json", ".stages.json", *MODEL), 4),
    "tune": (tune, "run", ("study.json", "plan.json", "tune.json", ".stages.json", *MODEL), 4),
    "tune, stopped": (tune, "stopped", (".tune*.safetensors", "study.json", ".stages.json"), 5),
    "plan": (plan, "planning", ("study.json", "scores.json", "scan.json", ".stages.json", ".measured.jsonl"), 1),
    "shrink": (shrink, "halfway", (".shrink/shrink.safetensors", "study.json", ".stages.json"), 1),
    "search": (search, "nas", ("search.json", "trials.journal", "trials/*.safetensors"), 2),
    "search's page": (search_page, "nas", ("nas.json",), 12),
    "winner": (winner, "nas", ("winner/config.json", "winner/model.safetensors"), 16),
}
"""What reads: how, which folder, which of its files are damaged, and how often."""


class _Killed(BaseException):
    pass


def _killed_at(kind: type, name: str, count: int, *words: Any) -> None:
    """Run a command that is killed right after the method was called so often."""
    whole, left = getattr(kind, name), [count]

    def method(self, *arguments):
        found = whole(self, *arguments)
        left[0] -= 1
        if not left[0]:
            raise _Killed
        return found

    setattr(kind, name, method)
    try:
        command(*words)
    except _Killed:
        pass
    finally:
        setattr(kind, name, whole)


def _new(root: Path) -> list[Any]:
    return [NETWORK, "--data", f"npz:{root / 'data.npz'}", *FEW]


def _data(root: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(80) % 10
    images = np.clip(128 + 90 * draw.standard_normal((10, 8, 8))[labels] + 20 * draw.standard_normal((80, 8, 8)), 0, 255)
    np.savez(root / "data.npz", x=images.astype("uint8"), y=labels)


def _run_(root: Path) -> None:
    """Everything done; and beside it the same before it was tuned."""
    command("run", *_new(root), *PLAN, *CHECK, "--out", root / "run")
    shutil.copytree(root / "run", root / "untuned")
    command("tune", root / "run", *TUNE)
    command("check", root / "run", *CHECK)


def _planning(root: Path) -> None:
    shutil.copytree(root / "untuned", root / "planning")
    (root / "planning" / "plan.json").unlink()


def _stopped(root: Path) -> None:
    shutil.copytree(root / "untuned", root / "stopped")
    _killed_at(Training, "save", 2, "tune", root / "stopped", *TUNE)


def _shrunk(root: Path) -> None:
    command("sites", *_new(root), "--out", root / "shrunk")
    command("compare", root / "shrunk", "--schedules", "last", "--seeds", "1", "--remove", "1", "--a-round", "1")
    shutil.copytree(root / "shrunk", root / "compared")
    command("shrink", root / "shrunk", *SHRINK)


def _halfway(root: Path) -> None:
    shutil.copytree(root / "compared", root / "halfway")
    _killed_at(Rounds, "keep", 1, "shrink", root / "halfway", *SHRINK)


BUILDERS = {
    "run": _run_,
    "planning": _planning,
    "stopped": _stopped,
    "shrunk": _shrunk,
    "halfway": _halfway,
    "nas": lambda root: _search(root / "nas"),
}
NEEDS = {"planning": "run", "stopped": "run", "halfway": "shrunk"}


def build(root: Path, folder: str) -> None:
    """A folder as readers find it, and first those that it is made from."""
    if not (root / "data.npz").exists():
        _data(root)
    for name in (NEEDS.get(folder), folder):
        if name and not (root / name).exists():
            BUILDERS[name](root)
    for page in root.glob("*/*.html"):
        page.unlink()


@dataclass
class Fuzz:
    """The folders under `root`, and what their readers answer undamaged."""

    root: Path
    expected: dict[str, tuple[Any, str]]

    @classmethod
    def prepared(cls, root: Path, only: Sequence[str] = tuple(READERS)) -> "Fuzz":
        """What the named readers read, and what they answer."""
        fuzz = cls(root, {})
        for name in only:
            fuzz.expect(name)
        return fuzz

    def expect(self, name: str) -> None:
        """Ask a reader twice: libraries are imported then, and the answer must be the same again."""
        read, folder, _, _ = READERS[name]
        build(self.root, folder)
        for _ in range(2):
            with self.copy(folder) as copied:
                found = read(copied)
            assert alike(found[0], self.expected.setdefault(name, found)[0]), f"{name} does not give the same twice"

    @contextmanager
    def copy(self, folder: str) -> Iterator[Path]:
        """A copy beside the others, so that it finds the same data."""
        there = self.root / f"copy-{os.getpid()}"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(self.root / folder, there)
        try:
            yield there
        finally:
            shutil.rmtree(there, ignore_errors=True)

    def case(self, number: int, seed: int = 0, *, only: str = "", seconds: float = 60) -> Outcome:
        """One case: which reader, file and damage follow from its number and the seed."""
        rng = Random(f"{seed} {number}")
        names = [only] if only else [name for name, (*_, weight) in READERS.items() for _ in range(weight)]
        name = rng.choice(names)
        read, folder, patterns, _ = READERS[name]
        with self.copy(folder) as copied:
            files = sorted(path for pattern in patterns for path in copied.glob(pattern))
            path = rng.choice(files)
            done = damage_(path, rng)
            file = str(path.relative_to(copied))
            return outcome(
                lambda: read(copied),
                self.expected[name],
                case=f"{number}: {name}: {file}: {done}",
                editable=file == "plan.json",
                seconds=seconds,
            )
