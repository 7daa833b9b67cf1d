"""Laws of every operator: what it says it costs, what it fits, and its place in scan, plan, saved networks and the command line.

A new operator is one more row in OPERATORS.
"""

import json

import pytest
import torch
from pydantic import ValidationError
from test_affine import pair_of, rows
from tiny import network

from delayer import apply, chain_of, load, save, task_of
from delayer.cli.options import with_options
from delayer.cutting import plan_by_hand, read_plan
from delayer.cutting.by_hand import edit_with
from delayer.edits.replace_span import ReplaceSpan
from delayer.errors import DataError, DelayerError, PlanError, PlugInError
from delayer.fitting.operators import Operator, fit, operator, operator_of, operators, scanned_operators, settings_of
from delayer.fitting.operators.affine import Affine
from delayer.fitting.operators.conv import Conv
from delayer.fitting.operators.diagonal import Diagonal
from delayer.fitting.operators.drop import Drop
from delayer.fitting.operators.ghosted import Ghosted
from delayer.fitting.operators.linear import Linear
from delayer.fitting.operators.low_rank import LowRank
from delayer.fitting.operators.scale import Scale
from delayer.measure import num_macs
from delayer.network.chain import Span
from delayer.observing.one_pass import observe
from delayer.observing.stats import Moments
from delayer.search.options import PlanOptions
from delayer.search.scan import scan

D = 10
DRAW = torch.Generator().manual_seed(3)
SCALE, SHIFT = torch.rand(D, generator=DRAW).double() + 0.5, torch.randn(D, generator=DRAW).double()
FULL = torch.randn(D, D, generator=DRAW).double()
THIN = torch.eye(D) + torch.randn(D, 2, generator=DRAW).double() @ torch.randn(2, D, generator=DRAW).double()
EYE, ZERO = torch.eye(D).double(), torch.zeros(D).double()

OPERATORS = [  # the operator, and a map W, b that it can be exactly
    (Drop(), EYE, ZERO),
    (Scale(), torch.diag(SCALE), ZERO),
    (Diagonal(), torch.diag(SCALE), SHIFT),
    (LowRank(rank=2), THIN, SHIFT),
    (Affine(), FULL, SHIFT),
    (Linear(), FULL, ZERO),
    (Ghosted(), FULL, ZERO),
]
MAPS = [row for row in OPERATORS if not row[0].removes]
PATCHES = [Conv(kernel=3), Conv(kernel=5, tail="relu")]
by_name = pytest.mark.parametrize("one, weight, bias", OPERATORS, ids=lambda value: getattr(value, "name", ""))
maps_by_name = pytest.mark.parametrize("one, weight, bias", MAPS, ids=lambda value: getattr(value, "name", ""))


def test_every_operator_has_its_row():
    assert {one.name for one, _, _ in OPERATORS} | {one.name for one in PATCHES} >= set(operators)


@by_name
def test_what_it_can_be_exactly_is_found_exactly(one: Operator, weight, bias):
    x, _ = rows(80_000, 3)  # so many that the fixed 1e-6 of Ghosted Layers is nothing beside them
    found = one.solve(pair_of(x, x @ weight.T + bias))
    matrix = torch.diag(found.weight) if found.weight.ndim == 1 else found.weight
    torch.testing.assert_close(matrix, weight, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.bias, bias, rtol=1e-6, atol=1e-6)


@by_name
def test_on_its_own_rows_it_is_never_worse_than_dropping(one: Operator, weight, bias):
    x, y = rows(40, 0)
    for ridge in (None, 1e-3, 1.0):
        if ridge is None or "ridge" in type(one).model_fields:
            tried = one if ridge is None else one.model_copy(update={"ridge": ridge})
            w, b, _ = tried.solve(pair_of(x, y))
            error = ((x * w if w.ndim == 1 else x @ w.T) + b - y).square().sum()
            assert error <= (y - x).square().sum() * (1 + 1e-9)


@maps_by_name
def test_its_module_is_its_map_and_costs_what_it_says(one: Operator, weight, bias):
    x = torch.randn(7, D)
    new = one.module(D)
    torch.testing.assert_close(new(x), x)
    assert sum(p.numel() for p in new.parameters()) == one.num_params(D)
    if one.num_macs(D) > D:  # torch's counter takes a product with a diagonal for nothing
        assert num_macs(new, x) == 7 * one.num_macs(D)
    made = fit(pair_of(*rows(100, 0)), one)
    w, b, _ = one.solve(pair_of(*rows(100, 0)))
    w = torch.diag(w) if w.ndim == 1 else w
    torch.testing.assert_close(made(x), (x.double() @ w.T + b).float(), rtol=1e-4, atol=1e-4)
    pictures = torch.randn(2, D, 3, 4)
    one_by_one = fit(pair_of(*rows(100, 0)), one, axis=1)(pictures)
    torch.testing.assert_close(one_by_one, made(pictures.movedim(1, -1)).movedim(-1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("one", PATCHES, ids=lambda one: one.title)
def test_a_module_of_patches_is_the_identity_and_costs_what_it_says(one: Operator):
    x = torch.rand(2, D, 6, 6)
    new = one.module(D, axis=1)
    torch.testing.assert_close(new(x), x)
    assert sum(p.numel() for p in new.parameters()) == one.num_params(D)
    assert num_macs(new, x) == 2 * 36 * one.num_macs(D)


@pytest.mark.parametrize("one", [row[0] for row in OPERATORS] + PATCHES, ids=lambda one: one.title)
def test_it_says_what_it_is_and_comes_back_from_a_file(one: Operator):
    assert (one.name in operators and one.source and type(one).__doc__ and one.title in one.label) or one.removes
    edit = edit_with(one, Span(1, 3))
    written = json.loads(edit.model_dump_json())
    assert type(edit).model_validate(written) == edit
    if isinstance(edit, ReplaceSpan):
        assert written["operator"] == one.name and "operator" not in written.get("options", {})
        old = written | {"ridge": None, "rank": written.get("rank"), "kernel": written.get("kernel")}  # as 0.1 wrote it
        assert ReplaceSpan.model_validate({"tail": "identity", "sweeps": 1} | old) == edit


@maps_by_name
def test_it_is_scanned_planned_cut_saved_and_loaded(one: Operator, weight, bias, tmp_path):
    model = network()
    data = task_of([torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(3)]).batches("fit")
    chain = chain_of(model, data[0].inputs)
    stats = [observe(chain, [batch], [Moments([(1, 3)], exact=True)])[0] for batch in (data[0], data[1])]
    table = scan(chain, *stats, operators=[one.name, "drop"], spans=[Span(1, 3)])
    row = next(r for r in table.spans if r.operator == one.name)
    assert row.title and operator_of(row.operator, row.options).name == one.name
    plan = plan_by_hand(chain, ["1:3"], operator=one)
    plan.save(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan and one.label in plan.edits[0].label
    small = apply(chain, plan, data=data)
    assert sum(p.numel() for p in small.blocks[1].parameters()) == one.num_params(24)
    save(small, plan, chain, tmp_path / "small", example=data[0].inputs, factory="tiny:network")
    torch.testing.assert_close(load(tmp_path / "small", factory="tiny:network")(data[0].inputs), small(data[0].inputs))


def test_what_a_scan_looks_at_by_default_has_few_parameters_first():
    assert scanned_operators() == ("drop", "diagonal", "low_rank", "affine")


def test_settings_keep_what_was_given():
    assert settings_of("low_rank", 24) == (LowRank(rank=4), LowRank(rank=8))
    assert settings_of("low_rank", 24, {"rank": 3}) == (LowRank(rank=3),)
    assert settings_of("low_rank", 24, {"ridge": 0.5}) == (LowRank(rank=4, ridge=0.5), LowRank(rank=8, ridge=0.5))
    assert settings_of("low_rank", 1) == () and settings_of("affine", 1) == (Affine(),)
    with pytest.raises(PlanError, match="affine has no option rank"):
        settings_of("affine", 24, {"rank": 3})


def test_its_options_are_options_of_the_command():
    @with_options(plan=PlanOptions)
    def command(*, plan):
        return plan

    names = {p.name: p for p in command.__signature__.parameters.values()}
    declared = {name for kind in operators.values() for name in kind.model_fields} - {"tail"}
    assert declared <= names.keys() and "operator_options" not in names and "tail" not in names
    given = dict.fromkeys(names) | {"span": ["1:3"], "operator": "low_rank", "rank": 5}
    filled = command(**{name: value if value is not None else names[name].default for name, value in given.items()})
    assert filled.operator_options == {"rank": 5} and filled.operator == "low_rank"
    given |= {"rank": None, "operator_option": ["strength=0.5", "way=up"]}  # of a plug-in from outside
    filled = command(**{name: value if value is not None else names[name].default for name, value in given.items()})
    assert filled.operator_options == {"strength": 0.5, "way": "up"}
    given |= {"rank": 4, "operator_option": ["rank=5"]}
    with pytest.raises(DelayerError, match="rank is given twice"):
        command(**{name: value if value is not None else names[name].default for name, value in given.items()})
    with pytest.raises(DelayerError, match="'strength' is no option of a plug-in. Write NAME=VALUE."):
        command(**dict.fromkeys(names) | {"operator_option": ["strength"]})


def test_no_file_makes_an_operator_of_nonsense():
    for wrong in (
        {"operator": 3},
        {"operator": "os:system"},
        {"operator": "affine", "ridge": "1"},
        {"operator": "affine", "x": 1},
    ):
        with pytest.raises(ValidationError):
            ReplaceSpan.model_validate_json(json.dumps({"edit": "replace_span", "start": 1, "stop": 2, **wrong}), strict=True)


def test_numbers_of_other_libraries_are_numbers():
    import numpy

    assert operator_of("low_rank", {"rank": numpy.int64(3), "ridge": torch.tensor(0.5)}) == LowRank(rank=3, ridge=0.5)
    with pytest.raises(PlanError, match="An option of an operator is a number or a word, not Tensor"):
        operator_of("affine", {"ridge": torch.ones(2)})


def test_an_option_has_no_name_that_says_something_else_in_a_plan():
    class Wrong(Affine):
        start: int = 0

    with pytest.raises(PlugInError, match="The operator wrong has an option start, which says something else in a plan"):
        operator("wrong")(Wrong)
    assert "wrong" not in operators


def test_an_operator_that_leaves_something_unsaid_is_refused_when_it_registers():
    class Silent(Operator):
        scanned = True

    class Costs(Silent):
        def num_params(self, width):
            return 0

        def num_macs(self, width):
            return 0

    class Stands(Costs):
        def module(self, width, axis=-1):
            return torch.nn.Identity()

    for kind, missing in ((Silent, "num_params"), (Costs, "module"), (Stands, "solve")):
        with pytest.raises(PlugInError, match=f"The operator silent does not say its {missing}. Write that method"):
            operator("silent")(kind)
    assert "silent" not in operators


def test_batches_that_are_none_are_told_of_before_any_pass():
    model = network()
    task = task_of([torch.randn(4, 1, 8, 8)])
    chain = chain_of(model, torch.randn(2, 1, 8, 8))
    with pytest.raises(DataError, match="Give one, such as task.batches"):
        observe(chain, task, [Moments([(0, 1)])])
    with pytest.raises(DataError, match="no Tensor. Make a task of them: delayer.task_of"):
        observe(chain, [torch.randn(2, 1, 8, 8)], [Moments([(0, 1)])])
    [few] = observe(chain, task.batches("fit"), [Moments([(0, 1)])])
    with pytest.raises(PlanError, match="those that were given lack this pair"):
        apply(chain, plan_by_hand(chain, "1:3"), few)
    with pytest.raises(PlanError, match="not by LoaderSplit. Give batches as data="):
        apply(chain, plan_by_hand(chain, "1:3"), task.batches("fit"))
