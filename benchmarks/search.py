"""Seconds that best_spans takes on a long chain, and its equality with brute force on short ones, as JSON lines.

    python benchmarks/search.py

Chains have every span with three operators. "uneven": blocks of random size and importance; "like": blocks of one
size; "random": no structure at all; "proportional": damage within 5 % of the saving, the hard case.
"""

import itertools
import json
import os
import platform
import random
import statistics
import time

import torch

import delayer
from delayer.search.exact_search import Candidate, best_spans

SEED = 0
OPERATORS = {"drop": (0.0, 1.0), "affine": (0.35, 0.5), "lowrank:64": (0.1, 0.7)}  # share of a block kept, of damage


def chain(kind: str, num_blocks: int, seed: int) -> list[Candidate]:
    """Every span with every operator; savings in parameters."""
    rng = random.Random(seed)
    sizes = [7e6 if kind == "like" else rng.uniform(5e6, 9e6) for _ in range(num_blocks)]
    importance = [rng.lognormvariate(0, 1) for _ in range(num_blocks)]
    found = []
    for start, stop in itertools.combinations(range(num_blocks + 1), 2):
        for operator, (kept, share) in OPERATORS.items():
            saved = sum(sizes[start:stop]) - 7e6 * kept * (1 if kind == "like" else rng.uniform(0.9, 1.1))
            damage = share * sum(importance[start:stop]) * (stop - start) ** 0.3 * rng.uniform(0.8, 1.2)
            if kind == "random":
                saved, damage = 7e6 * (stop - start) * rng.random(), (stop - start) * rng.random()
            if kind == "proportional":
                damage = saved * rng.uniform(0.95, 1.05)
            found.append(Candidate(start, stop, operator, damage, saved))
    return found


def time_chain(kind: str, keep: int, share: float, num_blocks: int = 96, repeats: int = 5) -> dict:
    """Quartiles of the wall and of the processor's seconds over several chains."""
    wall, processor = [], []
    for repeat in range(repeats):
        candidates = chain(kind, num_blocks, SEED + repeat)
        target = share * max(c.saved for c in candidates if (c.start, c.stop) == (0, num_blocks))
        begin = time.perf_counter(), time.process_time()
        best_spans(candidates, target, num_blocks=num_blocks, keep=keep)
        wall.append(time.perf_counter() - begin[0])
        processor.append(time.process_time() - begin[1])
    return {
        "benchmark": "best_spans",
        "kind": kind,
        "num_blocks": num_blocks,
        "num_candidates": len(candidates),
        "share": share,
        "keep": keep,
        "repeats": repeats,
        "wall_s": [round(q, 4) for q in statistics.quantiles(wall, n=4, method="inclusive")],
        "processor_s": [round(q, 4) for q in statistics.quantiles(processor, n=4, method="inclusive")],
    }


def check_brute_force(num_cases: int = 200, keep: int = 5) -> dict:
    """How many of the small cases come out as they do by trying all sets; eighths, so that ties are ties."""
    rng, equal = random.Random(SEED), 0
    for _ in range(num_cases):
        spans = [sorted(rng.sample(range(7), 2)) for _ in range(8)]
        candidates = list(
            dict.fromkeys(
                Candidate(*span, rng.choice(list(OPERATORS)), rng.randint(-1, 6) / 8, rng.randint(-2, 8) / 8)
                for span in sorted(spans)
            )
        )
        subsets = (s for n in range(len(candidates) + 1) for s in itertools.combinations(candidates, n))
        sets = [list(s) for s in subsets if all(a.stop <= b.start for a, b in itertools.pairwise(s))]
        target = 0.6 * max(sum(c.saved for c in s) for s in sets)

        def rank(chosen: list[Candidate], candidates: list[Candidate] = candidates) -> tuple:
            places = [candidates.index(c) for c in chosen]
            return sum(c.damage for c in chosen), sum(c.stop - c.start for c in chosen), len(chosen), places

        expected = sorted((s for s in sets if sum(c.saved for c in s) >= target), key=rank)[:keep]
        equal += best_spans(candidates, target, num_blocks=6, keep=keep) == expected
    return {"benchmark": "brute_force", "num_cases": num_cases, "keep": keep, "equal": equal}


def main() -> None:
    torch.set_num_threads(1)  # tensors are small: more threads only wait for each other
    machine = {
        "seed": SEED,
        "delayer": delayer.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "num_cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(check_brute_force() | machine))
    for kind, keep, share in itertools.product(("uneven", "like", "random"), (1, 16), (0.1, 0.3, 0.6)):
        print(json.dumps(time_chain(kind, keep, share) | machine), flush=True)
    for keep in (1, 16):
        print(json.dumps(time_chain("proportional", keep, 0.3, repeats=3) | machine), flush=True)


if __name__ == "__main__":
    main()
