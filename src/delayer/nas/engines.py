"""How workers are started and how it is noticed that one died: processes of this machine, or Ray."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from delayer.libraries import first_line, library
from delayer.nas.worker import work
from delayer.registry import imports


class Engine(Protocol):
    """Starts workers by name, and tells how one ended."""

    running: dict[str, Any]
    """What stands for each worker that has not been seen to end."""

    def start(self, name: str) -> None:
        """Start a worker of that name."""

    def ended(self) -> dict[str, tuple[int, str]]:
        """{name: (exit code, last words)} of workers that ended since it was last asked."""
        raise NotImplementedError

    def close(self) -> None:
        """End all workers."""


class Processes:
    """Workers as processes of this machine; what one says lies in FOLDER/workers/NAME.log."""

    def __init__(self, folder: Path, num_workers: int, threads: int, own: str):
        self.folder, self.running, self.own = folder, {}, own
        self.threads = threads or max(1, (os.cpu_count() or 1) // num_workers)
        (folder / "workers").mkdir(parents=True, exist_ok=True)

    def start(self, name: str) -> None:
        """Start a worker of that name in a process of its own; what it says goes to a file."""
        command = [sys.executable, "-m", "delayer.nas", str(self.folder), name, str(self.threads), self.own, *imports()]
        paths = os.pathsep.join(path for path in sys.path if path)
        with open(self._log(name), "w") as log:
            self.running[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            )

    def _log(self, name: str) -> Path:
        return self.folder / "workers" / f"{name}.log"

    def ended(self) -> dict[str, tuple[int, str]]:
        """Workers that ended since the last call: exit code and what they said last."""
        codes = {name: process.poll() for name, process in self.running.items()}
        found = {name: (code, last_line(self._log(name).read_text())) for name, code in codes.items() if code is not None}
        for name in found:
            del self.running[name]
        return found

    def close(self) -> None:
        """End all workers that still run."""
        for process in self.running.values():
            process.kill()
            process.wait()


class Ray:
    """Workers as Ray tasks; on several machines the folder and the data must lie where all can read them.

    RAY_ADDRESS joins a cluster that runs; without it Ray is started on this machine.
    """

    def __init__(self, folder: Path, num_workers: int, threads: int, own: str):
        self.ray, self.folder, self.running, self.own = library("ray", "ray"), folder, {}, own
        if not self.ray.is_initialized():
            cpus = num_workers * max(threads, 1)
            here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": cpus, "include_dashboard": False}
            paths = os.pathsep.join(path for path in sys.path if path)
            self.ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"PYTHONPATH": paths}}, **here)
        # Ray would run a dead task again by itself; the search decides about that.
        self.work = self.ray.remote(num_cpus=max(threads, 1), max_retries=0)(work)

    def start(self, name: str) -> None:
        """Start a worker of that name as a task of ray's."""
        self.running[name] = self.work.remote(str(self.folder), name, self.own, imports())

    def ended(self) -> dict[str, tuple[int, str]]:
        """Workers that ended since the last call: exit code and what they said last."""
        done, _ = (
            self.ray.wait(list(self.running.values()), num_returns=len(self.running), timeout=0) if self.running else ([], [])
        )
        found = {}
        for name in [name for name, task in self.running.items() if task in done]:
            try:
                found[name] = (self.ray.get(self.running.pop(name)), "")
            except self.ray.exceptions.RayError as error:
                found[name] = (1, last_line(str(error)) or first_line(error))
        return found

    def close(self) -> None:
        """End all workers that still run."""
        for task in self.running.values():
            self.ray.cancel(task, force=True)
        self.ray.shutdown()


@contextmanager
def engine(name: str, folder: Path, num_workers: int, threads: int = 0, own: str = "") -> Iterator[Engine]:
    """An engine whose workers are gone afterwards.

    own: the function of the user's own that workers may import; they do not take it from the search's files.
    """
    made = {"processes": Processes, "ray": Ray}[name](folder, num_workers, threads, own)
    try:
        yield made
    finally:
        made.close()


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
