"""Blocks ranked by scores, and where metrics or data sets disagree."""

from collections.abc import Sequence
from typing import Any

import torch

from delayer.network.chain import Chain
from delayer.study import Score


def block_values(chain: Chain, one: Score) -> dict[int, float]:
    """What a score says of each removable block, as the span of that block alone."""
    found = {}
    for i, block in enumerate(chain.blocks):
        value = one.values[i] if one.shape == "blocks" else one.values[block.inlet][block.outlet]
        if block.removable and value is not None:
            found[i] = float(value)
    return found


def rank_blocks(chain: Chain, scores: Sequence[Score]) -> tuple[list[dict[str, Any]], list[str]]:
    """The blocks, most redundant first by mean rank, and sentences that say where metrics disagree.

    Two metrics disagree where the rank correlation (Spearman) of their blocks is under one half.
    """
    ranks: dict[str, dict[int, int]] = {}
    for one in (s for s in scores if s.shape != "network"):
        values = block_values(chain, one)
        if len(values) > 1:
            order = sorted(values, key=lambda b: values[b], reverse=one.redundant == "high")
            ranks[one.title] = {block: place + 1 for place, block in enumerate(order)}
    blocks = sorted(set().union(*ranks.values())) if ranks else []
    rows = [
        {
            "block": b,
            "path": chain.blocks[b].path,
            "mean_rank": sum(r[b] for r in ranks.values() if b in r) / max(1, sum(b in r for r in ranks.values())),
            "ranks": {t: r[b] for t, r in ranks.items() if b in r},
        }
        for b in blocks
    ]
    rows.sort(key=lambda row: (row["mean_rank"], row["block"]))
    return rows, _disagreements(ranks)


def _disagreements(ranks: dict[str, dict[int, int]]) -> list[str]:
    """One sentence for each metric that ranks the blocks unlike others do, each pair told once."""
    apart: dict[str, list[str]] = {}
    for one in ranks:
        for two in ranks:
            both = sorted(ranks[one].keys() & ranks[two].keys())
            if one != two and len(both) > 2 and correlation([ranks[one][b] for b in both], [ranks[two][b] for b in both]) < 0.5:
                apart.setdefault(one, []).append(two)
    sentences, paired = [], set()
    for one in sorted(apart, key=lambda title: -len(apart[title])):
        others = [two for two in apart[one] if frozenset((one, two)) not in paired]
        paired |= {frozenset((one, two)) for two in others}
        if others:
            first = {title: min(ranks[title], key=ranks[title].__getitem__) for title in (one, others[0])}
            sentences.append(
                f"{one} ranks the blocks unlike {' and '.join(others)} (rank correlation under 0.5): it calls block "
                f"{first[one]} the most redundant, {others[0]} block {first[others[0]]}. Trust measured cuts, not a score."
            )
    return sentences


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    pair = torch.tensor([list(x), list(y)], dtype=torch.float64)
    pair = pair - pair.mean(1, keepdim=True)
    scale = pair.norm(dim=1).prod()
    return float(pair[0] @ pair[1] / scale) if scale > 0 else 0.0


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's correlation, ties in order of appearance."""
    ranks = [torch.tensor(list(v), dtype=torch.float64).argsort(stable=True).argsort(stable=True).tolist() for v in (x, y)]
    return correlation(*ranks)


def correlate(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """How alike the similarity matrices of a network are on two data sets: Pearson and Spearman over all pairs.

    Source: RBA's claim that the pattern belongs to the architecture, not to the data (arXiv 2410.04941).
    """
    found = []
    for k, one in enumerate(scores):
        for two in scores[k + 1 :]:
            if one.name != two.name or one.data == two.data or one.shape in ("blocks", "network") or one.labels != two.labels:
                continue
            cells = [
                (a, b)
                for i, (p, q) in enumerate(zip(one.values, two.values, strict=True))
                for j, (a, b) in enumerate(zip(p, q, strict=True))
                if j > i and a is not None and b is not None
            ]
            if len(cells) > 2:
                x, y = zip(*cells, strict=True)
                found.append(
                    {
                        "metric": one.title,
                        "first": one.data,
                        "second": two.data,
                        "num_pairs": len(cells),
                        "pearson": correlation(x, y),
                        "spearman": rank_correlation(x, y),
                    }
                )
    return found
