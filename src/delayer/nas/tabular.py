"""Search strategies replayed on a table of results, hundreds of seeds in seconds."""

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch

from delayer.errors import DataError, NasError
from delayer.nas.cells import CellSpace, cell_operations, cell_string
from delayer.nas.space import Seen
from delayer.nas.strategies import Strategy, StrategyOptions, strategies
from delayer.study import NasTable, Record, Replay

RESAMPLES = 2000


class TableOptions(Record):
    """Which column of a table says what."""

    cell_column: str = "cell"
    """Column of the table with cell strings."""
    validation_column: str = "cifar10_val_12"
    """Column with the cheap validation accuracy, %; all that strategies see."""
    test_column: str = "cifar10_test_200"
    """Column with the test accuracy after full training, %; only the candidate found is looked up."""
    params_column: str = "params_m_cifar10"
    """Column with the parameters, in any unit."""
    redundancy_column: str | None = None
    """Column with a redundancy score; without one, parameters stand in for redundancy."""


@dataclass(frozen=True)
class Row:
    """One candidate of a table."""

    seen: Seen
    test: float


class TableSpace(CellSpace):
    """The cells that a table knows."""

    def __init__(self, cells: Sequence[str]):
        super().__init__()
        self.cells, self.known = tuple(cells), frozenset(cells)

    def draw(self, rng: Random) -> str:
        """One of the table's cells."""
        return rng.choice(self.cells)

    def mutate(self, candidate: str, rng: Random) -> str:
        """One choice changed; another row where the table holds no neighbour."""
        return next(
            (c for c in (super(TableSpace, self).mutate(candidate, rng) for _ in range(100)) if c in self.known), None
        ) or self.draw(rng)

    def every(self):
        """All of the table's cells, in its order."""
        return iter(self.cells)


def read_table(path: str | Path, options: TableOptions = TableOptions()) -> dict[str, Row]:
    """The rows of a CSV by their cell. Raises DataError naming what lacks, NasError for a cell that is none."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, lines = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The table {path} cannot be read ({error}). Give a CSV file with a header.") from error
    wanted = {name: column for name, column in options.model_dump().items() if column is not None}
    if missing := [f"{column} (--{name.replace('_', '-')})" for name, column in wanted.items() if column not in header]:
        raise DataError(
            f"{path} lacks {len(missing)} of the columns that are needed: {', '.join(missing)}. It has "
            f"{', '.join(header) or 'none'}. Name the right ones by these options."
        )
    if not lines:
        raise DataError(f"{path} has a header and no rows. Give at least one candidate.")
    space, rows = CellSpace(), {}
    for number, line in enumerate(lines, 2):
        try:
            cell = cell_string(cell_operations(line[options.cell_column] or ""))
            accuracy, test, params = (
                float(line[column]) for column in (options.validation_column, options.test_column, options.params_column)
            )
            redundancy = float(line[options.redundancy_column]) if options.redundancy_column else params
        except NasError as error:
            raise NasError(f"{path}, line {number}: {error}") from error
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number} holds no number where one is needed ({error}). Correct it.") from error
        if not all(map(math.isfinite, (accuracy, test, params, redundancy))):
            raise DataError(f"{path}, line {number} holds a number that is not finite. Correct or remove it.")
        rows[cell] = Row(Seen(-1, cell, accuracy, redundancy, params, space.is_dead(cell)), test)
    return rows


def replay_once(
    strategy: Strategy, space: TableSpace, rows: dict[str, Row], num_trials: int, options: StrategyOptions, seed: int
) -> Seen:
    """What one search of so many trials picks; a dead or repeated candidate takes a trial too."""
    seen: list[Seen] = []
    taken: set[str] = set()
    for slot in range(num_trials):
        candidate = strategy.ask(space, seen, taken, Random(f"{seed} {slot}"), options)
        if candidate is None:
            break
        row = rows[candidate].seen
        seen.append(Seen(slot, candidate, row.accuracy, row.redundancy, row.params, row.dead))
        taken.add(space.canonical(candidate))
    return strategy.pick(seen, options)


def replay(
    table: str | Path,
    *,
    names: Sequence[str] = (),
    num_trials: int = 100,
    num_seeds: int = 200,
    columns: TableOptions = TableOptions(),
    options: StrategyOptions = StrategyOptions(),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NasTable:
    """All strategies (or those named) on a table, with equal budgets and the same seeds, compared.

    Intervals are percentile bootstraps over seeds (Efron, 1979), differences are taken seed by seed.
    Raises DataError, NasError, UnknownName.
    """
    begun = time.monotonic()
    rows = read_table(table, columns)
    space = TableSpace(list(rows))
    chosen = [strategies[name] for name in names or strategies]
    found: dict[str, list[tuple[float, float]]] = {one.name: [] for one in chosen}
    for k in range(num_seeds):
        for one in chosen:
            pick = replay_once(one, space, rows, num_trials, options, seed + k)
            found[one.name].append((rows[pick.candidate].test, pick.params))
        if progress:
            progress(k + 1, num_seeds)
    values = {name: torch.tensor(pairs, dtype=torch.float64) for name, pairs in found.items()}
    winner = max(values, key=lambda name: float(values[name][:, 0].mean()))
    replays = []
    for one in chosen:
        accuracy, params = values[one.name].T
        behind = values[winner][:, 0] - accuracy
        replays.append(
            Replay(
                strategy=one.name,
                rule=one.rule.format(**options.model_dump()),
                accuracy=accuracy.mean().item(),
                accuracy_interval=interval(accuracy, seed),
                params=params.mean().item(),
                params_interval=interval(params, seed),
                behind=behind.mean().item(),
                behind_interval=interval(behind, seed),
            )
        )
    replays.sort(key=lambda one: -one.accuracy)
    stand_in = f"{columns.params_column}: the table has no MSRS, so parameters stand in for redundancy"
    return NasTable(
        columns=columns.model_dump(),
        num_candidates=len(rows),
        num_trials=num_trials,
        num_seeds=num_seeds,
        redundancy=columns.redundancy_column or stand_in,
        replays=tuple(replays),
        best_possible=max(row.test for row in rows.values()),
        verdict=verdict(replays),
        seconds=time.monotonic() - begun,
        seed=seed,
    )


def interval(values: torch.Tensor, seed: int) -> tuple[float, float]:
    """95 % interval of the mean of values [seeds]."""
    resampled = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(seed))
    low, high = values[resampled].mean(1).quantile(values.new_tensor([0.025, 0.975])).tolist()
    return low, high


def verdict(replays: Sequence[Replay]) -> tuple[str, ...]:
    """Winners and losers by name, best first; no difference is claimed whose interval holds 0."""
    first, *others = replays
    sentences = [f"Most accurate: {first.strategy}, {first.accuracy:.2f} %."]
    tied = [one.strategy for one in others if one.behind_interval[0] <= 0]
    if tied:
        sentences.append(f"Not told apart from it: {', '.join(tied)}.")
    sentences += [
        f"Loses in accuracy: {one.strategy}, {one.behind:.2f} points behind ({one.behind_interval[0]:.2f} to "
        f"{one.behind_interval[1]:.2f})."
        for one in others
        if one.behind_interval[0] > 0
    ]
    smallest = min(replays, key=lambda one: one.params)
    largest = max(replays, key=lambda one: one.params)
    if smallest.params_interval[1] < largest.params_interval[0]:
        sentences.append(
            f"Smallest networks: {smallest.strategy}, {smallest.params:.3f}; largest: {largest.strategy}, {largest.params:.3f}."
        )
    return tuple(sentences)
