"""What cannot be done is refused before any work starts, with what was asked, what was found and what to do."""

from pathlib import Path

import pictures
import pytest
import torch

from delayer import cli
from delayer.errors import BudgetError, DelayerError, ModelError, PlanError, SpanError
from delayer.search.asked import check_asked, check_words
from delayer.search.options import operators_of
from delayer.stages import CheckOptions, PlanOptions, ScanOptions, open_work, plan_stage, run
from delayer.stages.tune import check_tuning
from delayer.tasks import TaskOptions
from delayer.tuning import TuneOptions

ONE = {"remove": "blocks=1"}
BY_HAND = {"span": ("2",)}

WORDS = [
    ({}, BudgetError, "exactly one of --remove, --max-drop or --span"),
    ({**ONE, **BY_HAND}, BudgetError, "exactly one of --remove, --max-drop or --span"),
    ({"remove": "3"}, BudgetError, "'3' is no budget. Write what to remove: blocks=3"),
    ({"remove": "blocks=0"}, BudgetError, "'blocks=0' is no budget"),
    ({"remove": "blocks=1.5"}, BudgetError, "'blocks=1.5' is no budget"),
    ({"remove": "params=150%"}, BudgetError, "'params=150%' is no budget"),
    ({"remove": "macs=25"}, BudgetError, "'macs=25' is no budget"),
    ({"remove": "latency=0%"}, BudgetError, "'latency=0%' is no budget"),
    ({**ONE, "method": "magic"}, BudgetError, "There is no method 'magic'. Use ours, .*rba, redtest"),
    (
        {**ONE, "operators": "drop,magic"},
        BudgetError,
        "There is no operator 'magic' that a scan can judge. Use affine, diagonal, drop, .*linear",
    ),
    ({**ONE, "operators": " , "}, BudgetError, "names no operator. Use some of affine, diagonal, drop"),
    ({**BY_HAND, "operator": "magic"}, BudgetError, "There is no operator 'magic'. Use affine, conv, diagonal, drop, .*linear"),
    ({**ONE, "operator": "affine"}, BudgetError, "--operator affine says what stands in a span by hand, and no --span"),
    ({**ONE, "operator_options": {"rank": 3}}, BudgetError, "--rank 3 says what stands in a span by hand, and no --span"),
    ({**ONE, "operator_options": {"kernel": 3}}, BudgetError, "--kernel 3 says what stands in a span by hand, and no --span"),
    (
        {**BY_HAND, "operator_options": {"rank": 3}},
        BudgetError,
        "--rank 3 goes with --operator low_rank; the operator is chosen on held-out data",
    ),
    (
        {**BY_HAND, "operator_options": {"rank": 3}, "operator": "affine"},
        BudgetError,
        "--rank 3 goes with --operator low_rank; the operator is affine",
    ),
    (
        {**BY_HAND, "operator_options": {"rank": 0}, "operator": "low_rank"},
        PlanError,
        "operator low_rank was given options that do not do: rank: Input should be greater than or equal to 1",
    ),
    (
        {**BY_HAND, "operator_options": {"depth": 3}},
        BudgetError,
        "No operator has an option depth .3 was given.. Known are kernel",
    ),
    ({**BY_HAND, "operator_options": {"kernel": 3}}, BudgetError, "--kernel 3 goes with --operator conv; the operator is chosen"),
    (
        {**BY_HAND, "operator_options": {"kernel": 4}, "operator": "conv"},
        PlanError,
        "operator conv was given options that do not do: kernel: Input should be 1, 3 or 5",
    ),
    ({"span": ("a:b",)}, SpanError, "is not a span"),
    ({"span": ("3:3",)}, SpanError, "is empty or negative"),
    ({"span": ("4:6", "1:3", "2:5")}, SpanError, "Spans 1:3 and 2:5 overlap. Join them to 1:5, or shorten one"),
    ({"span": ("2", "2")}, SpanError, "Spans 2:3 and 2:3 overlap"),
    ({"max_drop": 1.0, "method": "rba"}, BudgetError, "RBA states no stopping rule"),
    ({"remove": "params=9%", "method": "redtest"}, BudgetError, "RedTest removes a number of blocks"),
    ({**BY_HAND, "method": "rba", "operator": "affine"}, BudgetError, "RBA has an operator of its own .linear., and --op"),
]


def parts(asked: dict) -> tuple[PlanOptions, ScanOptions, CheckOptions]:
    return tuple(
        kind(**{k: v for k, v in asked.items() if k in kind.model_fields}) for kind in (PlanOptions, ScanOptions, CheckOptions)
    )


@pytest.mark.parametrize(("asked", "error", "said"), WORDS, ids=lambda value: str(value) if isinstance(value, dict) else "")
def test_words_without_meaning_are_refused_before_anything_is_opened(asked, error, said, tmp_path):
    plan, scan, check = parts(asked)
    with pytest.raises(error, match=said):
        check_words(plan, scan)
    with pytest.raises(error, match=said):  # the network is not even looked for
        run("no.such:network", "no such data", out=tmp_path, plan_options=plan, scan_options=scan, check_options=check)


GOOD = [
    ONE,
    {"remove": "params=25%"},
    {"max_drop": 1.0},
    {"span": ("1:3", "3")},
    {**BY_HAND, "operator": "conv", "operator_options": {"kernel": 5}},
    {**BY_HAND, "operator": "conv"},
    {**BY_HAND, "operator": "low_rank", "operator_options": {"rank": 3}},
    {**BY_HAND, "method": "rba"},
    {**ONE, "method": "redtest"},
    {**ONE, "operators": "affine", "repair": "best", "refit": "sequential"},
]


@pytest.mark.parametrize("asked", GOOD, ids=str)
def test_what_has_a_meaning_passes(asked):
    check_words(*parts(asked)[:2])


def test_an_operator_named_twice_counts_once():
    assert operators_of("drop, affine,drop,") == ("drop", "affine")


@pytest.mark.parametrize(
    "field",
    [
        {"samples": 0},
        {"effort": -1},
        {"repair_samples": 0},
        {"max_drop": -1},
        {"max_drop": float("inf")},
        {"max_drop": float("nan")},
        {"refit": "twice"},
        {"repair": "glue"},
        {"readout": "tail"},
        {"batch_sizes": (0,)},
        {"batch_sizes": (4, -1)},
        {"batch_sizes": ()},
    ],
)
def test_numbers_out_of_range_and_words_without_meaning_are_no_options(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        (CheckOptions if field.keys() & {"readout", "batch_sizes"} else PlanOptions)(**field)


# -- of a network ------------------------------------------------------------------------------------------------------

TOKENS, PICTURES = "tiny:network", "pictures:single"
ASKED = [
    (TOKENS, {"remove": "blocks=20"}, BudgetError, "Removing 20 blocks cannot be met: at most 6 blocks can go"),
    (TOKENS, {"remove": "params=99%"}, BudgetError, r"at most 8\d\.\d % of params can go from this network"),
    (TOKENS, {"remove": "macs=99%"}, BudgetError, r"at most 8\d\.\d % of macs can go from this network"),
    (TOKENS, {"remove": "params=87%", "operators": "affine"}, BudgetError, r"at most 85\.3 % of params"),
    (TOKENS, {"remove": "blocks=7", "method": "rba"}, BudgetError, "Removing 7 blocks cannot be met: at most 6 blocks can go"),
    (TOKENS, {"remove": "blocks=6", "method": "redtest"}, BudgetError, "this network has 6 layers"),
    (TOKENS, {"span": ("4:9",)}, SpanError, "ends behind the last block: this network has 6 blocks"),
    (PICTURES, {"span": ("2:6",)}, SpanError, "crosses a change of shape. Use 2:4 and 5:6"),
    (
        TOKENS,
        {**BY_HAND, "operator": "low_rank", "operator_options": {"rank": 24}},
        PlanError,
        "rank 24 was asked for where the width is 24. Use a rank between 1 and 23",
    ),
    (TOKENS, {**BY_HAND, "operator": "conv"}, PlanError, "features lie on axis -1: its blocks do not pass pictures"),
    (TOKENS, {**ONE, "repair": "norms"}, PlanError, "found no batch norm with statistics in Digits. Use --repair none, resolve"),
    ("test_asked:normed", {**ONE, "repair": "resolve"}, ModelError, "No block of Normed ends in shortcut . linear layer"),
]


class PostNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.inner(x))


class Normed(torch.nn.Module):
    preprocessing = {"mean": (0.5,), "std": (0.5,), "size": 8, "channels": 1}

    def __init__(self):
        super().__init__()
        self.stem, self.head = torch.nn.Linear(64, 8), torch.nn.Linear(8, 10)
        self.blocks = torch.nn.ModuleList(PostNorm() for _ in range(3))

    def forward(self, x):
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def normed() -> torch.nn.Module:
    torch.manual_seed(0)
    return Normed()


@pytest.fixture
def opened(tmp_path):
    pytest.importorskip("sklearn")

    def open_(name: str):
        data = "digits"
        if name == PICTURES:
            import numpy as np

            data = f"npz:{tmp_path / 'x.npz'}"
            np.savez(tmp_path / "x.npz", x=torch.cat(pictures.batches(4)).float().numpy())
        few = TaskOptions(num_fit=40, num_validation=20, num_test=20)
        return open_work(name, [data], out=tmp_path / "study", task_options=few)

    return open_


@pytest.mark.parametrize(("name", "asked", "error", "said"), ASKED, ids=lambda case: str(case) if isinstance(case, dict) else "")
def test_what_a_network_cannot_give_is_refused_before_it_is_scored(name, asked, error, said, opened):
    work = opened(name)
    plan, scan, _ = parts(asked)
    with pytest.raises(error, match=said):
        check_asked(work, plan, scan)
    with pytest.raises(error, match=said):
        plan_stage(work, plan, scan)
    assert not list(work.study.folder.glob("*.json*")), "nothing was scored, scanned or measured"


def test_a_budget_that_can_be_met_passes(opened):
    work = opened(TOKENS)
    for asked in (
        {"remove": "blocks=6"},
        {"remove": "params=80%"},
        {"remove": "latency=20%"},
        {"remove": "blocks=5", "method": "redtest"},
    ):
        check_asked(work, *parts(asked)[:2])


def test_every_refusal_is_one_of_ours():
    assert all(issubclass(error, DelayerError) for *_, error, _ in [*WORDS, *ASKED])


@pytest.mark.parametrize(
    "words, said",
    [
        (["run", "--remove", "blocks=1", "--tune-epochs", "-1"], "--tune-epochs"),
        (["run", "--remove", "blocks=1", "--seed", "99999999999999999999"], "--seed"),
        (["scan", "--blocks", "["], "no regular expression"),
        (["scan", "--blocks", "(a+)+"], "may never end"),
        (["shrink", "--remove", "99"], "99 activations are to be removed"),
    ],
)
def test_what_cannot_be_is_said_by_the_command_line(words, said, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(Path(__file__).parent.parent)
    stage, *options = words
    monkeypatch.setattr(
        "sys.argv",
        ["delayer", stage, "tests.tiny:network", "--data", "digits", "--num-fit", "64", "--out", str(tmp_path / "s"), *options],
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "s" / "scores.json").exists()


@pytest.mark.parametrize("options, said", [({"milestones": (9,)}, "after epoch 9"), ({"milestones": (0,)}, "after epoch 0")])
def test_a_milestone_that_never_comes_is_refused(options, said):
    with pytest.raises(BudgetError, match=said):
        check_tuning(TuneOptions(epochs=2, **options))


def test_a_block_that_is_none_is_said_before_a_search_begins(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.setattr(
        "sys.argv",
        [
            "delayer",
            "nas",
            "--data",
            "digits",
            "--space",
            "depth_width",
            "--block",
            "os:getcwd",
            "--trials",
            "1",
            "--out",
            str(tmp_path / "n"),
        ],
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "cannot be built" in said and "factory(in_width, width, stride)" in said
