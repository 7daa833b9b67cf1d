"""Python processes that have seen nothing of the tests, without the seconds that importing PyTorch costs each of them.

A server (`multiprocessing`'s) imports torch, delayer and what most networks and data come from once, and forks for each
question: a process of its own, with the folder, environment, arguments, import path and output that the command asks for, and
no network of the caller's in it. `run` and `Process` take the commands that `subprocess` takes; test_fresh.py holds the two
side by side.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import types
import warnings
from multiprocessing.forkserver import _forkserver
from pathlib import Path

OURS = ["delayer.cli", "delayer.store.proof", "delayer.nas.worker"]
REPORTS = ["jinja2", "plotly.offline"]
KINDS = ["bert", "gpt2", "llama", "qwen2", "swin", "vit"]
"""Networks of transformers that most proofs open."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["torch", "torch._dynamo", *OURS, *REPORTS, "timm", "torchvision", "sklearn.datasets", "transformers.modeling_utils"]
    + [f"transformers.models.{kind}.modeling_{kind}" for kind in KINDS]
)
SHARED = "DELAYER_TESTS_SERVER"
"""The variable with the address of the server of whoever started this process."""

WARM = """
import subprocess, types
import fresh
from delayer.nas import engines
from delayer.store import proof
proof.subprocess = types.SimpleNamespace(run=fresh.run)
engines.subprocess = types.SimpleNamespace(Popen=fresh.Process, DEVNULL=subprocess.DEVNULL)
"""
"""Code before that of a process: reload proofs and the workers of a search come from here."""
SHORT_RACES = """
from delayer.measure import timing
_latency = timing.latency
timing.latency = lambda *given, seconds=3.0, **more: _latency(*given, seconds=min(seconds, 0.05), **more)
"""
"""Code before that of a process: latencies are measured for a twentieth of a second, whatever is asked."""


def share() -> None:
    """Start the server for all processes that this one starts, and for as long as this one lives."""
    _forkserver.ensure_running()
    os.environ[SHARED] = _forkserver._forkserver_address


def _join(server: str) -> None:
    """Ask that server, and start no other."""
    _forkserver._forkserver_address, _forkserver.ensure_running = server, lambda: None


class Process:
    """What `subprocess.Popen` is for `python -m MODULE …` and `python -c CODE …`.

    Both outputs are captured as text, or go to the one open file that is given for both.
    """

    def __init__(self, command, *, cwd=None, env=None, stdin=None, stdout=None, stderr=None):
        python, kind, what, *arguments = map(str, command)
        assert python == sys.executable and kind in ("-m", "-c"), command
        assert stdout is stderr and stdin in (None, subprocess.DEVNULL), command
        self.args = list(command)
        self._said = tempfile.TemporaryDirectory(prefix="fresh")
        files = [str(Path(self._said.name) / name) if stdout is None else stdout.name for name in ("out", "err")]
        if _forkserver._forkserver_address is None and SHARED in os.environ:
            _join(os.environ[SHARED])
            _forkserver._forkserver_alive_fd = os.open(os.devnull, os.O_WRONLY)  # others keep it alive
        _forkserver.ensure_running()
        given = (kind, what, arguments, str(cwd or os.getcwd()), dict(os.environ if env is None else env), files)
        self._process = _context.Process(target=_begin, args=(_forkserver._forkserver_address, *given))
        sys.path.append(str(Path(__file__).parent))  # by which the new process finds _begin
        try:
            self._process.start()
        finally:
            sys.path.pop()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, kind: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, kind)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error, once it is over."""
        self.wait(timeout)
        paths = [Path(self._said.name) / name for name in ("out", "err")]
        return tuple(path.read_text() if path.exists() else "" for path in paths)


def run(command, *, cwd=None, env=None, timeout=None, check=False, capture_output=True, text=True) -> subprocess.CompletedProcess:
    """What `subprocess.run` gives."""
    process = Process(command, cwd=cwd, env=env)
    out, err = process.communicate(timeout)
    if check and process.returncode:
        print(err, file=sys.stderr)  # the exception does not say it
        raise subprocess.CalledProcessError(process.returncode, command, out, err)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _begin(
    server: str, kind: str, what: str, arguments: list[str], folder: str, environment: dict[str, str], files: list[str]
) -> None:
    """In the new process: become what the command line would have made of it."""
    _join(server)  # which may be asked for more
    gc.freeze()  # what the server imported is no garbage: looking through it takes half a second
    for number, path in enumerate(files, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
    asked = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    first = [] if environment.get("PYTHONSAFEPATH") else [folder if kind == "-m" else ""]
    sys.path[:] = [*first, *asked, *installed]
    import numpy
    import torch

    torch.seed()  # a new process draws its own; a fork draws what its server would have drawn
    numpy.random.seed()
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS") or os.cpu_count()))
    if kind == "-c":
        sys.argv = ["-c", *arguments]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [what, *arguments]
        warnings.filterwarnings("ignore", message=".*found in sys.modules after import of package", category=RuntimeWarning)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
