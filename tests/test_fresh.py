"""The warm server's processes stand for new ones: what a new one sees, they see."""

import json
import os
import signal
import subprocess
import sys
import time

import fresh
import pytest
import torch
from planted import BY_NAME, normal
from test_store import saved

from delayer.families import chain_of
from delayer.store import proof

LOOKS = """
import json, os, sys, torch
import delayer
print(json.dumps({
    "argv": sys.argv, "folder": os.getcwd(), "path": sys.path[:2], "main": __name__, "threads": torch.get_num_threads(),
    "tests": [m for m in sys.modules if m.startswith(("test", "planted"))], "asked": os.environ.get("ASKED"),
    "inherited": os.environ.get("NOT_ASKED"), "dtype": str(torch.get_default_dtype()), "delayer": delayer.__file__}))
print("said", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("fresh")
    (place / "looks.py").write_text(LOOKS)
    return place


@pytest.mark.parametrize(("kind", "safe"), [("-m", ""), pytest.param("-c", "1", marks=pytest.mark.slow)])
def test_it_sees_what_a_new_process_sees(kind, safe, folder, monkeypatch):
    monkeypatch.setenv("NOT_ASKED", "1")
    torch.rand(7)
    torch.set_default_dtype(torch.float64)
    try:
        asked = {"ASKED": "yes", "OMP_NUM_THREADS": "2", "PYTHONSAFEPATH": safe}
        env = {k: v for k, v in os.environ.items() if k != "NOT_ASKED"} | asked
        command = [sys.executable, kind, "looks" if kind == "-m" else LOOKS, "3", "x y"]
        new, warm = (way(command, cwd=folder, env=env, capture_output=True, text=True) for way in (subprocess.run, fresh.run))
    finally:
        torch.set_default_dtype(torch.float32)
    assert warm.returncode == new.returncode == 3 and warm.stderr == new.stderr == "said\n"
    assert json.loads(warm.stdout) == json.loads(new.stdout)
    assert json.loads(warm.stdout)["asked"] == "yes" and json.loads(warm.stdout)["tests"] == []


def test_errors_and_signals_end_it_as_they_end_a_new_process(folder):
    failed = fresh.run([sys.executable, "-c", "raise OSError('on fire')"], cwd=folder)
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1] == "OSError: on fire"
    draws = [sys.executable, "-c", "import torch, random; print(torch.rand(1), random.random())"]
    assert fresh.run(draws).stdout != fresh.run(draws).stdout, "each draws its own numbers"
    with pytest.raises(subprocess.CalledProcessError):
        fresh.run([sys.executable, "-c", "1 / 0"], check=True)
    sleeping = fresh.Process([sys.executable, "-c", "import time; open('up', 'w'); time.sleep(99)"], cwd=folder)
    while not (folder / "up").exists():
        assert sleeping.poll() is None
        time.sleep(0.01)
    sleeping.send_signal(signal.SIGKILL)
    assert sleeping.wait(20) == sleeping.poll() == -signal.SIGKILL
    with pytest.raises(subprocess.TimeoutExpired):
        fresh.run([sys.executable, "-c", "import time; time.sleep(99)"], timeout=0.1)


def test_both_outputs_go_to_one_file_in_their_order(folder):
    command = [sys.executable, "-c", "import sys; print('one', flush=True); sys.exit('two')"]
    said = []
    for way in (subprocess.Popen, fresh.Process):
        with open(folder / "log", "w") as log:
            process = way(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        assert process.wait(60) == 1
        said.append((folder / "log").read_text())
    assert said == ["one\ntwo\n"] * 2
    process = fresh.Process([sys.executable, "-c", "import time; time.sleep(99)"])
    process.kill()
    assert process.wait(20) == -signal.SIGKILL


@pytest.mark.parametrize("passed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_reload_proof_in_a_new_process_says_the_same(passed, tmp_path, monkeypatch):
    """Other tests prove reloads by the warm server (conftest.py); here both ways look at one folder, right and wrong."""
    case, inputs = BY_NAME["own-keywords"], normal(3, 4, 8)()
    chain = chain_of(case.build(), inputs)
    small, _ = saved(chain, tmp_path / "cut", inputs, dropped=["1"], mapped=["2:4"], factory="planted:Keywords")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    found = []
    for parameter in small.parameters():
        parameter.data += 0.0 if passed else 0.1
    for way in (subprocess.run, fresh.run):
        monkeypatch.setattr(proof, "subprocess", type("Ways", (), {"run": staticmethod(way)}))
        found.append(proof.reload_proof(small, tmp_path / "cut", inputs, factory="planted:Keywords"))
    assert found[0] == found[1] and found[0].passed == passed, found
