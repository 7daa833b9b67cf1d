"""Strategies and their replay on a table: by hand on a tiny one, by the published figures on the real one."""

import csv
import math
import random

import pytest

from delayer.errors import DataError, NasError, UnknownName
from delayer.nas import CellSpace, StrategyOptions, TableOptions, replay, strategies
from delayer.nas.cells import cell_string
from delayer.nas.space import Seen
from delayer.nas.strategies import most_accurate
from delayer.nas.tabular import read_table

SPACE = CellSpace()
HEADER = ["cell", "cifar10_val_12", "cifar10_test_200", "params_m_cifar10"]


def cell(last: str, first: str = "none") -> str:
    return f"|{first}~0|+|none~0|none~1|+|{last}~0|none~1|none~2|"


ROWS = [
    (cell("skip_connect"), 50, 60, 0.07),
    (cell("nor_conv_1x1"), 70, 85, 0.10),
    (cell("nor_conv_3x3"), 80, 84, 0.30),
    (cell("avg_pool_3x3"), 40, 90, 0.07),
    (cell("none"), 99, 10, 0.07),
]
"""By short training the third wins (84 at 0.30); of the two best the second is smaller (85 at 0.10); the last is dead."""


@pytest.fixture
def table(tmp_path):
    def write(rows=ROWS, header=HEADER):
        path = tmp_path / "table.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


def seen(accuracies, redundancies=None, cells=None) -> list[Seen]:
    redundancies = redundancies or [0.0] * len(accuracies)
    cells = cells or random.Random(0).sample(list(SPACE.every()), len(accuracies))
    return [Seen(i, c, a, r, 1.0) for i, (a, r, c) in enumerate(zip(accuracies, redundancies, cells, strict=True))]


def test_evolution_ages_out_the_best():
    """Only the latest trials are parents, however good an old one was."""
    young = [cell_string((op,) * 5 + ("none",)) for op in ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")]
    past = seen([99, 10, 20, 30, 25], cells=[cell_string(("nor_conv_3x3",) * 6), *young])

    def parents(tournament: int) -> set[int]:
        options, found = StrategyOptions(population=4, tournament=tournament), set()
        for k in range(60):
            child = SPACE.decode(strategies["evolution"].ask(SPACE, past, set(), random.Random(k), options))
            found |= {p.slot for p in past if sum(child[e] != SPACE.decode(p.candidate)[e] for e in child) == 1}
        return found

    assert parents(tournament=60) == {3} and parents(tournament=1) == {1, 2, 3, 4}


def test_evolution_begins_at_random():
    ask = strategies["evolution"].ask
    assert ask(SPACE, seen([1.0] * 9), set(), random.Random(5), StrategyOptions()) == SPACE.draw(random.Random(5))


def test_redtest_picks_the_least_redundant_of_the_best():
    past = seen([90, 92, 91, 60, 89], [50, 80, 30, 1, 20])
    pick = strategies["redtest"].pick
    assert [pick(past, StrategyOptions(keep=k)).slot for k in (1, 2, 3, 4, 5)] == [1, 2, 2, 4, 3]


def test_a_dead_candidate_never_wins():
    past = [Seen(0, "a", 99.0, 0.0, 0.0, dead=True), Seen(1, "b", 10.0, 5.0, 9.0)]
    assert {one.pick(past, StrategyOptions()).slot for _, one in strategies.items()} == {1}


def test_redtest_and_short_training_see_the_same_candidates():
    drawn = {
        name: [strategies[name].ask(SPACE, [], set(), random.Random(k), StrategyOptions()) for k in range(20)]
        for name in ("redtest", "short_training")
    }
    assert drawn["redtest"] == drawn["short_training"]


def test_nothing_is_trained_twice_until_the_space_is_empty():
    space, taken = CellSpace(), set()
    space.choices = {
        name: ("none", "skip_connect", "avg_pool_3x3") if name in ("0->3", "0->1", "1->3") else ("none",)
        for name in space.choices
    }
    while (one := strategies["short_training"].ask(space, [], taken, random.Random(0), StrategyOptions())) is not None:
        assert space.canonical(one) not in taken and not space.is_dead(one)
        taken.add(space.canonical(one))
    # Nothing or one of two from the input, and nothing or one of three (skip, pool once, pool twice) over node 1.
    assert len(taken) == len({space.canonical(one) for one in space.every()} - {""})


def test_an_unknown_strategy_is_refused(table):
    with pytest.raises(UnknownName, match="no search strategy 'evolutoin'. Did you mean evolution"):
        replay(table(), names=["evolutoin"], num_seeds=1)


def test_a_tiny_table_by_hand(table):
    """With the whole table in the budget, there is one right answer for each pick."""
    found = replay(table(), names=["redtest", "short_training"], num_trials=20, num_seeds=5, options=StrategyOptions(keep=2))
    by_name = {r.strategy: r for r in found.replays}
    assert (by_name["redtest"].accuracy, by_name["redtest"].params) == (85, 0.10)
    assert (by_name["short_training"].accuracy, by_name["short_training"].params) == (84, pytest.approx(0.30))
    assert by_name["short_training"].behind == 1 and by_name["redtest"].behind_interval == (0, 0)
    assert found.best_possible == 90 and found.num_candidates == 5
    assert "parameters stand in for redundancy" in found.redundancy
    assert found.verdict == (
        "Most accurate: redtest, 85.00 %.",
        "Loses in accuracy: short_training, 1.00 points behind (1.00 to 1.00).",
        "Smallest networks: redtest, 0.100; largest: short_training, 0.300.",
    )


def test_random_search_in_expectation(table):
    """With one trial, random search finds what a uniform draw finds: the mean of the table."""
    found = replay(table(), names=["random_search"], num_trials=1, num_seeds=3000).replays[0]
    mean = sum(row[2] for row in ROWS) / len(ROWS)
    deviation = math.sqrt(sum((row[2] - mean) ** 2 for row in ROWS) / len(ROWS) / 3000)
    assert abs(found.accuracy - mean) < 4 * deviation
    low, high = found.accuracy_interval
    assert (high - low) / (2 * 1.96 * deviation) == pytest.approx(1, abs=0.15)


def test_a_redundancy_column_is_used_where_there_is_one(table):
    rows = [(*row, score) for row, score in zip(ROWS, (9, 9, 1, 9, 0), strict=True)]
    found = replay(
        table(rows, [*HEADER, "msrs"]),
        names=["redtest"],
        num_trials=20,
        num_seeds=2,
        columns=TableOptions(redundancy_column="msrs"),
        options=StrategyOptions(keep=2),
    )
    assert found.replays[0].accuracy == 84 and found.redundancy == "msrs"


def test_missing_columns_are_named(table):
    with pytest.raises(
        DataError,
        match=r"lacks 2 of the columns .*: cifar10_test_200 \(--test-column\), params_m_cifar10 \(--"
        r"params-column\)\. It has cell, cifar10_val_12",
    ):
        read_table(table([row[:2] for row in ROWS], HEADER[:2]))


def test_an_unknown_operation_in_a_table_is_named_with_its_line(table):
    with pytest.raises(NasError, match="line 3: .*unknown operation 'conv_9x9'. Allowed are"):
        read_table(table([ROWS[0], (cell("conv_9x9"), 1, 2, 3)]))


@pytest.mark.parametrize(
    "rows, said",
    [
        ([], "a header and no rows"),
        ([(cell("none"), "abc", 1, 2)], "line 2 holds no number where one is needed"),
        ([(cell("none"), "nan", 1, 2)], "line 2 holds a number that is not finite"),
    ],
)
def test_bad_tables(table, rows, said):
    with pytest.raises(DataError, match=said):
        read_table(table(rows))


def test_a_table_that_is_not_there():
    with pytest.raises(DataError, match="nowhere.csv cannot be read"):
        read_table("nowhere.csv")


@pytest.mark.data
def test_published_figures_of_the_whole_space(data_root):
    path = data_root.parent / "reference" / "nasbench201.csv"
    if not path.exists():
        pytest.skip("no table of all cells")
    for data, found, possible in (("cifar10", 94.37, 94.37), ("cifar100", 72.28, 73.51)):
        rows = read_table(path, TableOptions(validation_column=f"{data}_val_12", test_column=f"{data}_test_200"))
        assert len(rows) == 15_625
        assert rows[most_accurate([row.seen for row in rows.values()]).candidate].test == pytest.approx(found, abs=0.01)
        assert max(row.test for row in rows.values()) == pytest.approx(possible, abs=0.01)
        for name, row in list(rows.items())[::50]:
            expected = 0.073306 + 0.24304 * name.count("conv_3x3") + 0.028 * name.count("conv_1x1")
            assert row.seen.params == pytest.approx(expected, abs=2e-6)
        assert all(row.test <= 10 for row in rows.values() if row.seen.dead)
