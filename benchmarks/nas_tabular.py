"""Search strategies replayed on a table of all NAS-Bench-201 cells: equal budgets, 200 seeds, both data sets.

    python benchmarks/nas_tabular.py --table nasbench201.csv

The cheap signal is the validation accuracy after 12 epochs, the truth the test accuracy after 200. The table has no
MSRS, so parameters stand in for redundancy. The number of best among which RedTest's reading takes the smallest was
fixed at 5 beforehand; the other lines show what it decides.
"""

import argparse
import json
from pathlib import Path

from provenance import provenance

from delayer.nas import StrategyOptions, TableOptions, replay

SEED, NUM_SEEDS, BUDGETS, KEEPS = 0, 200, (50, 100, 300), (2, 3, 5, 10, 20)


def line(name: str, r) -> str:
    (a, b), (c, d), (e, f) = r.accuracy_interval, r.params_interval, r.behind_interval
    return (
        f"  {name:<20} {r.accuracy:6.2f} ({a:6.2f} to {b:6.2f})   {r.params:6.3f} ({c:5.3f} to {d:5.3f})   "
        f"{r.behind:6.2f} ({e:5.2f} to {f:5.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="CSV of all cells")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS)
    given = parser.parse_args()
    for data in ("cifar10", "cifar100"):
        columns = TableOptions(validation_column=f"{data}_val_12", test_column=f"{data}_test_200")
        for budget in BUDGETS:
            found = replay(given.table, num_trials=budget, num_seeds=given.seeds, columns=columns, seed=SEED)
            print(
                f"{data}, {budget} short trainings, {given.seeds} seeds; best possible {found.best_possible:.2f} %; mean and "
                f"95 % interval of the mean; {found.seconds:.1f} s"
            )
            print(f"  {'strategy':<20} {'test accuracy, %':<26} {'parameters, M':<25} behind the best, points")
            for r in found.replays:
                print(line(r.strategy, r))
            for text in found.verdict:
                print(f"  {text}")
            for keep in KEEPS:
                r = replay(
                    given.table,
                    names=["redtest"],
                    num_trials=budget,
                    num_seeds=given.seeds,
                    columns=columns,
                    options=StrategyOptions(keep=keep),
                    seed=SEED,
                ).replays[0]
                print(f"  redtest, smallest of the {keep:>2} best: {r.accuracy:.2f} % at {r.params:.3f} M")
            print(flush=True)
    print(f"Redundancy: {found.redundancy}. Parameters are with ten classes; a hundred add 0.006 M to each.")
    print(json.dumps(provenance(SEED)))


if __name__ == "__main__":
    main()
