"""How far the sets that a search nominates are from the best of all sets of blocks that could go, as JSON lines.

    python benchmarks/regret.py NETWORK --data DATA [--weights FILE] [--most 3]

Every set of 1, 2 and 3 blocks is dropped and judged, from its first change on, on the same validation samples. Beside the best
stands what two predictions take first, and the best of their first eight: the sum of the single cuts' divergences, and the
divergence of the sum of the single cuts' changes of the logits (delayer/search/additive.py). Regret is a ratio of divergences, 1
for the best. Nothing here reads test data. Seconds compare judging from the first change with whole passes, over the same cuts.
"""

import argparse
import json
import time
from itertools import combinations

import torch
from provenance import provenance

import delayer
from delayer.edits.drop_span import DropSpan
from delayer.fitting.evidence import Evidence
from delayer.network.calling import example_of
from delayer.progress import Reporter
from delayer.search.additive import Changes, nominated
from delayer.search.subject import Subject
from delayer.tasks import TaskOptions, grade_of

SEED, FIRST = 0, 8


def ranks(values: list[float]) -> torch.Tensor:
    """Ranks from 0."""
    return torch.tensor(values, dtype=torch.float64).argsort().argsort().double()


def spearman(one: list[float], other: list[float]) -> float:
    return float(torch.corrcoef(torch.stack([ranks(one), ranks(other)]))[0, 1])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("network")
    arguments.add_argument("--weights")
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--samples", type=int, default=128)
    arguments.add_argument("--most", type=int, default=3)
    given = arguments.parse_args()

    model = delayer.load(given.network, weights=given.weights)
    options = TaskOptions(num_fit=16, num_validation=given.samples, num_test=16, seed=SEED)
    task = delayer.open_task(given.data, model, options)
    chain = delayer.chain_of(model, example_of(task.batches("fit")[0].inputs))
    about = Subject(name=given.network, chain=chain, task=task, device=torch.device("cpu"), reporter=Reporter(quiet=True))
    able = [i for segment in chain.segments for i in range(segment.start, segment.stop)]
    changes, truth = Changes(about.reference), {}

    def judge(blocks: tuple[int, ...]) -> float:
        cut = tuple(DropSpan(start=b, stop=b + 1) for b in blocks)
        outputs = about.judged(cut, Evidence())
        if changes.wants(cut):
            changes.note(cut[0], outputs)
        return grade_of(outputs, about.reference, seed=SEED).distance or 0.0

    begun = time.process_time()
    for block in able:
        truth[block,] = judge((block,))
    late = time.process_time() - begun
    kept, about.replay._kept = about.replay._kept, {}
    begun = time.process_time()
    for block in able:
        judge((block,))
    whole = time.process_time() - begun
    about.replay._kept = kept
    facts = {"network": given.network, "samples": given.samples, **provenance(SEED, "timm", "transformers")}
    print(
        json.dumps({"cuts": len(able), "seconds_from_first_change": late, "seconds_whole": whole, "ratio": late / whole, **facts})
    )
    for num in range(2, given.most + 1):
        begun = time.process_time()
        found = nominated(changes, lambda edit: 1.0, float(num), keep=FIRST)
        seconds = time.process_time() - begun
        sets = list(combinations(able, num))
        for blocks in sets:
            truth[blocks] = judge(blocks)
        added = [changes.divergence(sum(changes.kept[DropSpan(start=b, stop=b + 1)] for b in blocks)) for blocks in sets]
        summed = [sum(truth[b,] for b in blocks) for blocks in sets]
        real = [truth[blocks] for blocks in sets]
        best = min(real)
        by_sum = sorted(sets, key=lambda blocks: sum(truth[b,] for b in blocks))[:FIRST]
        by_change = [tuple(edit.spans[0].start for edit in cut) for cut in found]
        row = {
            "blocks": num,
            "sets": len(sets),
            "best": sets[real.index(best)],
            "best_kl": best,
            "seconds_of_nominating": seconds,
            "spearman_sum": spearman(summed, real),
            "spearman_changes": spearman(added, real),
        }
        for name, first in (("sum", by_sum), ("changes", by_change)):
            row |= {
                f"regret_{name}_first": truth[first[0]] / best,
                f"regret_{name}_best_of_{FIRST}": min(map(truth.get, first)) / best,
            }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
