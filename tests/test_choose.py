"""The search as a library function: what the stage finds, from a network and a task alone; nothing is read or fitted twice."""

import pytest
import torch

import delayer
from delayer.cutting import applying
from delayer.errors import BudgetError
from delayer.fitting.operators.low_rank import LowRank
from delayer.search.options import PlanOptions, ScanOptions
from delayer.stages import cut_stage, open_work, plan_stage, run_all
from delayer.tasks import TaskOptions
from delayer.tasks.splits import Split

OPTIONS = TaskOptions(num_fit=60, num_validation=40, num_test=20, batch_size=20)


def opened(tmp_path, name="study"):
    return open_work("tiny:network", ["digits"], out=tmp_path / name, task_options=OPTIONS)


def subject():
    torch.manual_seed(0)
    model = delayer.load("tiny:network")
    task = delayer.open_task("digits", model, OPTIONS)
    return delayer.chain_of(model, task.batches("fit")[0].inputs), task


ASKED = [
    {"remove": "blocks=2", "effort": 4},
    {"max_drop": 60.0, "effort": 4},
    {"spans": "2:4", "operator": LowRank(rank=3)},
    {"spans": ["1:3", "4"]},
    {"remove": "blocks=1", "method": "rba"},
    {"spans": ["2"], "operator": "drop", "repair": "best"},
]


@pytest.mark.parametrize(
    "asked",
    [pytest.param(one, id=str(one), marks=[] if number % 2 == 0 else pytest.mark.slow) for number, one in enumerate(ASKED)],
)
def test_a_plan_without_a_folder_is_the_plan_with_one(asked, tmp_path):
    chain, task = subject()
    before = {name: t.clone() for name, t in chain.model.state_dict().items()}
    found = delayer.plan(chain, task, samples=20, **asked)
    given = {key: value for key, value in asked.items() if key != "spans"}
    if isinstance(one := asked.get("operator"), LowRank):
        given |= {"operator": one.name, "operator_options": {"rank": one.rank}}
    spans = asked.get("spans", ())
    options = PlanOptions(span=(spans,) if isinstance(spans, str) else tuple(spans), samples=20, try_onnx=False, **given)
    there = plan_stage(opened(tmp_path), options)
    assert found.edits == there.edits and found.refit == there.refit and found.data_hash == there.data_hash
    assert all(torch.equal(t, before[name]) for name, t in chain.model.state_dict().items())


def test_what_cannot_be_planned_is_refused_before_any_work(monkeypatch):
    chain, task = subject()
    monkeypatch.setattr(Split, "__getitem__", lambda self, index: pytest.fail("data were read"))
    with pytest.raises(BudgetError, match="exactly one of"):
        delayer.plan(chain, task)
    with pytest.raises(BudgetError, match="at most 6 blocks can go"):
        delayer.plan(chain, task, remove="blocks=20")
    with pytest.raises(BudgetError, match="--operator low_rank says what stands in a span by hand, and no --span was given"):
        delayer.plan(chain, task, remove="blocks=1", operator="low_rank")
    with pytest.raises(BudgetError, match="names no operator"):
        delayer.plan(chain, task, remove="blocks=1", operators=[])
    for wrong in ({"max_drop": -1}, {"max_drop": float("nan")}, {"remove": 2}, {"refit": "x"}, {"effort": -1}, {"share": 2}):
        with pytest.raises(BudgetError, match=f"That cannot be planned: {next(iter(wrong))}: .*See help.delayer.plan."):
            delayer.plan(chain, task, **wrong)


def test_score_and_scan_share_one_pass(tmp_path, monkeypatch):
    """Each batch of the fit split is read once before anything is cut, in place of once a stage."""
    read = []
    whole = Split.read

    def counted(self, numbers):
        read.append(self.name)
        return whole(self, numbers)

    work = opened(tmp_path)
    monkeypatch.setattr(Split, "read", counted)

    class Planned(Exception):
        pass

    def on_stage(stage, record):
        if stage == "scan":
            raise Planned

    with pytest.raises(Planned):
        run_all(work, ScanOptions(), PlanOptions(remove="blocks=1", effort=2, samples=20), on_stage=on_stage)
    assert read.count("fit") == 1


def test_what_planning_fitted_is_not_fitted_again_by_the_cut(tmp_path, monkeypatch):
    work, other, made = opened(tmp_path), opened(tmp_path, "other"), []
    whole = applying.apply_

    def counted(*args, **kwargs):
        made.append(args[1].refit)
        return whole(*args, **kwargs)

    monkeypatch.setattr(applying, "apply_", counted)
    plan = plan_stage(work, PlanOptions(span=("1", "4"), operator="affine", samples=20, try_onnx=False))
    assert made == ["independent", "sequential"]
    small = cut_stage(work, plan)
    assert len(made) == 2
    again = cut_stage(other, plan)  # in a folder that knows nothing of it
    assert len(made) == 3
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)
