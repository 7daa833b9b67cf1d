"""Quick repairs of a search: the original is run once for all of them, and rough products hardly move what is solved."""

from dataclasses import replace

import pytest
import torch
from planted import BY_NAME

from delayer.cutting import fit_edits_, plan_by_hand
from delayer.fitting.layer import solve_layer
from delayer.fitting.totals import Totals
from delayer.network.calling import call, output_of
from delayer.observing.stats.patch_moments import PatchMoments
from delayer.search.repair import resolved
from delayer.tasks import task_of


def case_of(name: str):
    case = BY_NAME[name]
    chain, inputs = case.chain(), case.inputs()
    more = [{key: value.flip(0) for key, value in inputs.items()} if isinstance(inputs, dict) else inputs.flip(0)]
    return chain, task_of([inputs, *more], model=chain.model).batches("fit")


@pytest.mark.parametrize("name", ["llama", "timm-vit", "timm-resnet"])
def test_what_is_known_of_the_original_changes_no_weight(name):
    chain, data = case_of(name)
    totals, found = Totals(), {}
    spans = [str(span) for span in chain.spans() if len(span) == 1]
    for known in (None, totals, totals):  # filled by the second, read by the third
        for span in (spans[0], spans[-1], spans[0]):
            cut = resolved(chain, plan_by_hand(chain, [span], operator="drop").edits, data[0], ridge=0.1)
            small = chain.copy()
            fit_edits_(small, cut, data, original=chain, totals=known)
            answer = output_of(call(small.model, data[0].inputs))
            assert torch.equal(found.setdefault(span, answer), answer)


def test_the_original_is_run_once_for_all_candidates():
    chain, data = case_of("llama")
    cut = resolved(chain, plan_by_hand(chain, ["1"], operator="drop").edits, data[0], ridge=0.1)
    runs, totals = [], Totals()
    for index in range(chain.num_blocks):
        chain.module(index).mlp.register_forward_hook(lambda *_, index=index: runs.append(index))
    for first in (True, False):
        small, before = chain.copy(), len(runs)
        for index in range(small.num_blocks):
            small.module(index).mlp._forward_hooks.clear()
        fit_edits_(small, cut, data, original=chain, tried=True, totals=totals)
        assert (len(runs) > before) is first


def test_what_finds_no_room_is_worked_out_anew():
    totals, runs = Totals(largest=100), []

    class Batch:
        start = 0

        def __len__(self) -> int:
            return 2

    class Run:
        tail, ending = "identity", (None, torch.zeros(2, 10))

    for _ in range(2):
        for block in (0, 1):
            totals.of(block, Batch(), lambda block=block: runs.append(block) or Run())
    assert runs == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_rough_products_hardly_move_the_layer(dtype, bias):
    torch.manual_seed(0)
    x = (torch.randn(4, 300, 40) @ torch.randn(40, 40) + 3).to(dtype)
    old = torch.randn(7, 40, dtype=torch.float64)
    y = x.float() @ old.T.float() * 0.5 + torch.randn(4, 300, 7)
    layers = {}
    for precision in ("rough", "usual", "exact"):
        moments = PatchMoments(precision=precision)
        for rows, targets in zip(x.split(1), y.split(1), strict=True):
            moments.update(rows, targets)
        layers[precision] = solve_layer(moments, old, ridge=0.1, bias=bias)
    for mine, theirs in zip(layers["rough"], layers["exact"], strict=True):
        assert mine.dtype == torch.float64 and (mine - theirs).norm() <= 0.02 * theirs.norm() + 1e-9
    for mine, theirs in zip(layers["usual"], layers["exact"], strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-9


def test_trying_whether_passes_may_begin_late_takes_two_samples():
    from delayer.search.replay import Replay

    case = BY_NAME["timm-vit"]
    chain, x = case.chain(), case.inputs()
    x = torch.cat([x] * 4)
    [batch] = task_of([x], model=chain.model).batches("fit")
    record, sizes = Replay(chain, [batch]), []
    chain.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with record.recording(replace(batch)):
        call(chain.model, batch.inputs)
    assert record.sound and sizes[0] == len(x) and len(sizes) > 1 and set(sizes[1:]) == {2}
