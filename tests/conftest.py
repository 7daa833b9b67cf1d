"""What all tests share: the folder of real weights and data, Hugging Face kept off the network, and the order of a run."""

import fcntl
import gc
import os
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks here are tiny: more threads only wait for one another

import fresh
import pytest

# The files that take longest, longest first: workers begin with them, so that none is left with one at the end.
LONGEST = (
    "test_docs",
    "test_stage_order",
    "test_cli",
    "test_fuse",
    "test_shrink",
    "test_onnx",
    "test_resolve",
    "test_tune",
    "test_store",
    "test_families",
    "test_extend",
    "test_nas_search",
    "test_plugins",
    "test_trust",
    "test_companions",
    "test_distributed",
    "test_judging",
    "test_fuzz",
    "test_fresh",
    "test_search",
)
# Files whose tests share nothing that is dear to make: workers take them one by one.
SINGLE = ("test_docs",)


def pytest_addoption(parser):
    parser.addoption(
        "--data-root", default=os.environ.get("DELAYER_DATA"), help="folder with real weights and data; by default DELAYER_DATA"
    )
    parser.addoption("--until", type=float, metavar="SECONDS", help="skip what would begin later than this (as date +%%s counts)")


def pytest_configure(config):
    if config.getoption("numprocesses", None):  # whoever only hands out work needs no PyTorch, and has the workers' one server
        fresh.share()
        return
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Longest files first, the rest in their order; within a file nothing moves."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish(session):
    gc.freeze()  # what was imported is no garbage: looking through it takes half a second


def pytest_sessionfinish(session):
    gc.unfreeze()  # libraries complain at the end of what they could not free


def pytest_xdist_make_scheduler(config, log):
    """Files go to workers whole, as with --dist loadfile, but for those whose tests go one by one."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return nodeid if Path(file).stem in SINGLE else file

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_runtest_setup(item):
    until = item.config.getoption("--until")
    if until is not None and time.time() > until:
        pytest.skip(f"left out, since the time of this run is over: {item.nodeid}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    """Tests run side by side, in as many processes as there are workers; one marked serial runs while all others wait.

    All pass a door (one at a time) into a room (many at a time); a serial test holds the door until it has the room to
    itself. The wait is no part of a test's time.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    alone = item.get_closest_marker("serial") is not None
    with open(__file__) as door, open(fresh.__file__) as room:  # locks need files, and these are there
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(door, fcntl.LOCK_UN)
        return (yield)


@pytest.fixture(scope="session")
def data_root(request) -> Path:
    """The folder of real weights and data; tests that need it skip without."""
    given = request.config.getoption("--data-root")
    if not given or not Path(given).is_dir():
        pytest.skip("no folder of real data: give --data-root or DELAYER_DATA")
    return Path(given).resolve()


@pytest.fixture(autouse=True, scope="session")
def warm_processes():
    """Reload proofs and the workers of a search come from the warm server: a tenth of a second instead of four (see fresh.py).

    For the whole session, since what a file makes once is made before the fixtures of a test.
    """
    import delayer.nas.engines
    import delayer.store.proof  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("delayer.store.proof.subprocess", SimpleNamespace(run=fresh.run))
        patch.setattr("delayer.nas.engines.subprocess", SimpleNamespace(Popen=fresh.Process, DEVNULL=subprocess.DEVNULL))
        yield


@pytest.fixture(autouse=True, scope="session")
def short_races():
    """Latencies are measured for a twentieth of a second, whatever is asked; gives the function that takes its time.

    Merges race for a second each, to tell networks apart that differ by a percent; what else is true of them needs no such care.
    """
    from delayer.measure import timing

    patient = timing.latency
    exec(fresh.SHORT_RACES, {})
    yield patient
    timing.latency = patient


@pytest.fixture(autouse=True, scope="session")
def translations_gathered_once():
    """torch gathers its thousand translations to ONNX anew for each graph, a third of a second; here it does so once."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        export = torch.onnx.export

        def patched_first(*given, **more):
            patch.setattr(torch.onnx, "export", export)
            with suppress(ImportError, AttributeError):  # a version of torch that does it another way
                from torch.onnx._internal.exporter._registration import ONNXRegistry

                patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
            return export(*given, **more)

        patch.setattr(torch.onnx, "export", patched_first)
        yield


@pytest.fixture(autouse=True)
def patient_clocks(request, monkeypatch, short_races):
    """Tests that read the clock have it to themselves, and the time that they ask for."""
    if request.node.get_closest_marker("serial"):
        monkeypatch.setattr("delayer.measure.timing.latency", short_races)
