"""Several processes that share the data see what one would have seen."""

import json
import os
import socket
import subprocess
import sys

import fresh
import pytest
import torch

from delayer.errors import ProcessError
from delayer.observing import processes

SCRIPT = """
import json, sys, torch
from torch import nn
from delayer.network.chain import Chain
from delayer.families import chain_of
from delayer.metrics.blocks.cka import cka
from delayer.observing.one_pass import observe, observe_pair
from delayer.observing.processes import join_processes
from delayer.observing.rows import Rows
from delayer.search.scan import scan
from delayer.search.exact_search import Candidate, best_spans
from delayer.activations.sites import sites_
from delayer.tasks.splits import Batch
from delayer.activations.counting import observe_sites
from delayer.observing.stats import Geometry, Hsic, Moments

torch.set_num_threads(1)
rank, world = join_processes()
torch.manual_seed(0)

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return x + self.fc2(self.fc1(x).relu())

model = nn.Sequential(*(Residual() for _ in range(5)))
x = torch.randn(70, 9, 16) + 3
chain, told = chain_of(model, x[:2]), []
batches = [Batch(x[k : k + 8], None, k) for k in range(0, 70, 8)]
points = chain.segments[0].points
many = torch.randn(420, 9, 16) * torch.logspace(-2, 1, 16) + 30  # batches of 630 rows, so in single precision
large = [Batch(many[k : k + 70], None, k) for k in range(0, 420, 70)]
fit = observe(chain, large[:3], [Moments([points])])[0]
unseen = observe(chain, large[3:], [Moments([points])])[0]
spans = scan(chain, fit, unseen, operators=("drop", "linear", "diagonal", "low_rank", "affine")).spans
sites = sites_(chain, x[:2])
switches = observe_sites(chain, sites, batches, batch_size=16)
stats = observe(chain, batches[:5], [
    Moments([points], Rows("each", 0.5)), Hsic(points, batch_size=16), Geometry([points], Rows("first"), len(points)),
], progress=lambda done, total: told.append((done, total)))
heldout = observe(chain, batches[5:], [Moments([points], Rows("each", 0.5))])[0]
alone = observe(chain, batches[:1], [Moments([points])])[0]  # one of two processes has nothing to watch
pair = observe_pair((chain, 0), (chain, 5), batches, Rows())
table = scan(chain, stats[0], heldout)
best = best_spans([Candidate(r.start, r.stop, f"{r.title}:{r.options}", r.residual, r.stop - r.start)
                   for r in table.spans], 2, num_blocks=5)[0]
counts, refused = [s.num_rows for s in (*stats, heldout, alone, pair)], ""
try:
    observe(chain, batches, [heldout])
except ValueError as error:
    refused = str(error)
found = {
    "values": [
        *(stats[0].pair(i, j).xy.tolist() for i in points for j in points if i < j),
        cka(stats[1]).tolist(), stats[2].squared_distance.tolist(), stats[2].angle.tolist(),
        alone.pair(0, 3).yy.tolist(), pair.pair(0, 1).xy.tolist(),
        *(s.counts_by_chunk().double().tolist() for s in switches.values()),
        *(torch.stack(s.best_line()).tolist() for s in switches.values()),
    ],
    "each": [
        *((r.residual, r.residual_fit, 1 + r.options.get("ridge", 0.0)) for r in (*table.spans, *spans)),
        *([float(t.norm()) for t in (p.mean_x, p.mean_y, p.xx, p.xy, p.yy)]
          for s in (fit, unseen) for i in points for j in points if i < j for p in [s.pair(i, j)]),
    ],
    "counts": counts, "plan": [(c.start, c.stop, c.operator) for c in best], "world": world,
    "told": told, "refused": refused,
}
with open(f"{sys.argv[1]}/{world}-{rank}.json", "w") as file:
    json.dump(found, file)
"""


LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"


@pytest.fixture(scope="module", params=["by hand", pytest.param("by accelerate", marks=pytest.mark.slow)])
def runs(request, tmp_path_factory) -> dict[str, dict]:
    """What one process saw, and what two that a launcher, or whoever sets its variables, started together."""
    folder = tmp_path_factory.mktemp("runs")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if request.param == "by hand":
        joined = environment | {"WORLD_SIZE": "2", "MASTER_PORT": free_port(), "MASTER_ADDR": "127.0.0.1"}
        started = [fresh.Process([sys.executable, "-c", SCRIPT, folder], env=joined | {"RANK": str(rank)}) for rank in range(2)]
    else:
        pytest.importorskip("accelerate")
        script = folder / "watch.py"
        script.write_text(SCRIPT)
        command = [sys.executable, *LAUNCH.split(), "--main_process_port", "0", str(script), str(folder)]
        started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)]
    for run in (fresh.Process([sys.executable, "-c", SCRIPT, folder], env=environment), *started):
        said = run.communicate(timeout=200)[1]
        assert run.returncode == 0, said[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_two_processes_gather_the_statistics_of_one(runs):
    assert runs.keys() == {"1-0", "2-0", "2-1"}
    for rank in ("2-0", "2-1"):
        assert runs[rank]["world"] == 2 and runs[rank]["counts"] == runs["1-0"]["counts"]
        for two, one in zip(runs[rank]["values"], runs["1-0"]["values"], strict=True):
            two, one = torch.tensor(two, dtype=torch.float64), torch.tensor(one, dtype=torch.float64)
            torch.testing.assert_close(two, one, rtol=0, atol=1e-6 * float(one.abs().max()))
        for two, one in zip(runs[rank]["each"], runs["1-0"]["each"], strict=True):
            assert two == pytest.approx(one, rel=1e-6, abs=1e-12)
    assert runs["2-0"]["values"] == runs["2-1"]["values"] and runs["2-0"]["each"] == runs["2-1"]["each"]


def test_two_processes_make_the_plan_of_one(runs):
    assert runs["2-0"]["plan"] == runs["2-1"]["plan"] == runs["1-0"]["plan"]
    assert len(runs["1-0"]["plan"]) > 0


def test_each_process_watches_its_share(runs):
    assert runs["1-0"]["told"] == [[k, 5] for k in range(1, 6)]
    assert [runs["2-0"]["told"], runs["2-1"]["told"]] == [[[1, 2], [2, 2]], [[1, 3], [2, 3], [3, 3]]]


def test_what_was_pooled_is_not_pooled_again(runs):
    assert runs["1-0"]["refused"] == ""
    assert "Several processes can only fill new statistics" in runs["2-0"]["refused"]


def test_a_process_alone_joins_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert processes.join_processes() == (0, 1)
    assert processes.shard(5) == range(5) and not torch.distributed.is_initialized()


@pytest.mark.parametrize(("num_batches", "world"), [(10, 2), (7, 3), (2, 4), (0, 2)])
def test_shards_are_contiguous_even_and_complete(monkeypatch, num_batches, world):
    monkeypatch.setattr(processes, "num_processes", lambda: world)
    monkeypatch.setattr(processes.distributed, "get_world_size", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(processes.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(processes.shard(num_batches))
    assert [k for share in shares for k in share] == list(range(num_batches))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


WORK = """
import os, sys, time
from delayer.cli import entry
from delayer.observing.processes import gather

def work(standalone_mode):
    gather(None)
    if os.environ["RANK"] == "1":
        exec(sys.argv[1])
    gather(None)

entry._command = lambda *registered: work
entry.main()
"""


@pytest.mark.parametrize(
    ("other", "patience"), [("os._exit(9)", "100"), ("time.sleep(100)", "2")], ids=["dies", "answers no more"]
)
def test_a_process_does_not_wait_for_one_that_is_lost(other, patience, tmp_path):
    """It ends in one sentence and exit code 2, long before the tests do."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "WORLD_SIZE": "2",
        "MASTER_PORT": free_port(),
        "MASTER_ADDR": "127.0.0.1",
        "DELAYER_PATIENCE": patience,
    }
    started = [fresh.Process([sys.executable, "-c", WORK, other], env=environment | {"RANK": str(rank)}) for rank in range(2)]
    try:
        said = started[0].communicate(timeout=90)[1]
    finally:
        for process in started:
            process.kill()
            process.wait()
    lines = [line for line in said.splitlines() if line.startswith("delayer: ")]
    assert started[0].returncode == 2 and len(lines) == 1 and "Traceback" not in said, said[-3000:]
    assert "Another of the 2 processes ended, or gave no answer" in lines[0]


@pytest.mark.parametrize("patience", ["soon", "nan", "inf"])
def test_a_patience_that_is_no_number_is_refused(monkeypatch, patience):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("DELAYER_PATIENCE", patience)
    with pytest.raises(ProcessError, match=f"DELAYER_PATIENCE={patience} is no number of seconds. Give one such as 600"):
        processes.join_processes()
