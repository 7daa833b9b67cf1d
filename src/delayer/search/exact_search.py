"""The best spans to cut under a budget: exact selection by damage that adds up.

Knows no model: a candidate is one possible edit of one span with two numbers. Where damage does not quite add up,
`local_search` goes on from here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from delayer.errors import BudgetError, MemoryLimitError, SpanError

MAX_LABELS = 20_000_000  # of 40 bytes each


@dataclass(frozen=True)
class Candidate:
    """One possible edit of blocks start..stop-1: what it is, what it costs and what it saves."""

    start: int
    stop: int
    operator: str  # "drop", "affine", "lowrank:16" ...
    damage: float  # adds up over a set; smaller is better
    saved: float  # in the budget's unit (blocks, parameters, multiply-adds, ms); may be negative
    removed: float | None = None  # what it takes away, before what it puts in place; its number of blocks where not given
    added: float = 0.0  # what it puts in place, such as parameters
    missed: float = 0.0  # what it misses, which tells apart what no grade does

    @property
    def takes(self) -> float:
        """Blocks that it removes."""
        return self.stop - self.start if self.removed is None else self.removed


CandidateSet = tuple[Candidate, ...]  # non-overlapping, first block first
Hops = list[list[tuple[int, float, float]]]  # per point: (point reached, damage, saved) of what starts there


def best_spans(candidates: Sequence[Candidate], target: float, *, num_blocks: int, keep: int = 1) -> list[list[Candidate]]:
    """The `keep` best sets of non-overlapping candidates that save at least target, least total damage first.

    Exact, and fewer than `keep` only where no more sets exist. Equal damage is decided by the least removed, then by
    the least added, then by fewer edits, then by earlier spans, then by the order given, so that nothing goes that
    need not. A target counts as met to within 1e-12 of itself, since sums of savings differ with their order.

    Dynamic programming over points, swept with a beam that grows until it leaves nothing out. Candidates whose
    Lagrangian bound is above the ceiling (the damage of the keep-th best set seen) are not looked at, and each
    sweep lowers the ceiling (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, ch. 5). Thousands of candidates
    shrink to dozens; but the problem is NP-hard, and damage nearly proportional to saving is the slow case.

    Raises BudgetError if no set saves the target, SpanError for a candidate outside the blocks or not finite,
    MemoryLimitError if the slow case grows too large.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} sets were asked for. Ask for 1 or more.")
    candidates = sorted(dict.fromkeys(candidates), key=lambda c: (c.start, c.stop))
    ahead: Hops = [[] for _ in range(num_blocks)]
    back: Hops = [[] for _ in range(num_blocks)]
    for c in candidates:
        if not (0 <= c.start < c.stop <= num_blocks and all(map(math.isfinite, _numbers(c)))):
            raise SpanError(f"{c} was offered for {num_blocks} blocks. Use 0 <= start < stop <= {num_blocks} and finite numbers.")
        ahead[c.start].append((c.stop, c.damage, c.saved))
        back[num_blocks - c.stop].append((num_blocks - c.start, c.damage, c.saved))

    most, least = ([saved for _, _, saved in _cheapest(ahead, 0, sign)] for sign in (1, -1))
    if most[-1] < target - 1e-12 * abs(target):
        raise BudgetError(
            f"A saving of {target:g} was asked for, but these {len(candidates)} candidates can save at most "
            f"{most[-1]:g}. Lower the target, or offer more spans or operators that save more.",
            most=most[-1],
        )
    price = _price(ahead, min(target, most[-1]))
    front, behind = _cheapest(ahead, 1, price), _cheapest(back, 1, price)[::-1]
    margin = 1e-11 * (abs(_cheapest(ahead, 1, 0)[-1][0]) + price * (abs(target) + most[-1] - least[-1]))
    limits = _Limits(target, target - 2e-12 * abs(target), price, margin, front, most, least)
    through = {}  # of the set through each candidate that is the cheapest at this price: cost, damage, saved
    for c in candidates:
        own = c.damage - price * c.saved, c.damage, c.saved
        through[c] = [sum(parts) for parts in zip(front[c.start], own, behind[c.stop], strict=True)]
    ceiling = _first_ceiling([damage for _, damage, saved in through.values() if saved >= target], limits, keep)
    width = 4 * keep
    while True:
        candidates = [c for c in candidates if through[c][0] + price * limits.goal <= ceiling]
        sets, ceiling, complete = _sweep(candidates, limits, keep, ceiling, width)
        if complete:
            return sets
        width *= 8


def _numbers(c: Candidate) -> tuple[float, ...]:
    """What adds up over a set: damage, saved, then what decides ties, most important first."""
    return c.damage, c.saved, c.takes, c.added, 1.0


def _cheapest(hops: Hops, damage_weight: float, saved_weight: float) -> list[tuple[float, float, float]]:
    """Per point, the least damage_weight · damage - saved_weight · saved up to there, and its damage and saved."""
    best = [(0.0, 0.0, 0.0)] + [(math.inf, 0.0, 0.0)] * len(hops)
    for point, here in enumerate(hops):
        cost, damage, saved = best[point]
        best[point + 1] = min(best[point + 1], best[point])
        for stop, more_damage, more_saved in here:
            total = cost + damage_weight * more_damage - saved_weight * more_saved
            if total < best[stop][0]:
                best[stop] = total, damage + more_damage, saved + more_saved
    return best


def _price(hops: Hops, target: float) -> float:
    """The damage per unit saved with the highest Lagrangian bound, by the secant method on the lower hull."""
    _, low_damage, low_saved = _cheapest(hops, 1, 0)[-1]
    _, high_damage, high_saved = _cheapest(hops, 0, 1)[-1]
    price = 0.0
    for _ in range(50 if low_saved < target else 0):  # about eight suffice, and any price gives a valid bound
        slope = (high_damage - low_damage) / (high_saved - low_saved)
        if slope == price:
            break
        price = slope
        _, damage, saved = _cheapest(hops, 1, price)[-1]
        if saved < target:
            low_damage, low_saved = damage, saved
        else:
            high_damage, high_saved = damage, saved
    return price * (1 + 1e-9)  # a hair dearer: of the two sets it cannot tell apart, take the one that suffices


@dataclass(frozen=True)
class _Limits:
    """What the candidates in front of each point can still do for a set of candidates behind it."""

    target: float
    goal: float  # the target, less the rounding of sums
    price: float  # damage per unit saved
    margin: float  # the rounding of bounds, in damage
    front: list[tuple[float, float, float]]  # least damage - price · saved, and its set's damage and saved
    most: list[float]  # saved
    least: list[float]

    def ceiling(self, damage: float) -> float:
        """The damage, raised so that no rounding of a sum or bound reaches above it."""
        return damage + 1e-11 * abs(damage) + self.margin


def _first_ceiling(damages: list[float], limits: _Limits, keep: int) -> float:
    """A ceiling over `keep` of these sets. Damages no further apart than rounding may be of the same set."""
    distinct: list[float] = []
    for damage in sorted(damages):
        if not distinct or damage > limits.ceiling(distinct[-1]):
            distinct.append(damage)
    return limits.ceiling(distinct[keep - 1]) if len(distinct) >= keep else math.inf


def _sweep(
    candidates: Sequence[Candidate], limits: _Limits, keep: int, ceiling: float, width: int
) -> tuple[list[list[Candidate]], float, bool]:
    """The keep best sets among at most `width` labels a point, the new ceiling, and whether all labels fitted.

    A label at a point is a set of candidates behind it. It goes when `keep` better ones save as much, or when its
    bound is above the ceiling. Points run last to first, so that (first candidate, rest) orders sets like words.
    """
    num_blocks = len(limits.most) - 1
    complete = True
    numbers = torch.tensor([_numbers(c) for c in candidates], dtype=torch.float64).reshape(-1, 5).T
    starts = torch.tensor([c.start for c in candidates], dtype=torch.long)
    stops = torch.tensor([c.stop for c in candidates], dtype=torch.long)
    edges = torch.searchsorted(starts, torch.arange(num_blocks + 1)).tolist()
    # Labels of all points, best first within a point: [damage, saved, removed, added, edits; labels] and
    # [candidate, rest; labels].
    values, paths = torch.zeros(5, 1, dtype=torch.float64), torch.full((2, 1), -1)
    begin, count = torch.zeros(num_blocks + 1, dtype=torch.long), torch.ones(num_blocks + 1, dtype=torch.long)
    for point in reversed(range(num_blocks)):
        ends = stops[edges[point] : edges[point + 1]]
        sizes = count[ends]
        first = torch.arange(edges[point], edges[point + 1]).repeat_interleave(sizes)
        rest = torch.arange(len(first)) + (begin[ends] - sizes.cumsum(0) + sizes).repeat_interleave(sizes)
        behind = slice(int(begin[point + 1]), int(begin[point + 1] + count[point + 1]))
        value = torch.cat([numbers[:, first] + values[:, rest], values[:, behind]], 1)
        path = torch.cat([torch.stack([first, rest]), paths[:, behind]], 1)

        damage, saved = value[:2]
        cost, front_damage, front_saved = limits.front[point]
        whole = damage[saved + front_saved >= limits.target] + front_damage
        if len(whole) >= keep:
            ceiling = min(ceiling, limits.ceiling(whole.kthvalue(keep).values.item()))
        bound = damage + cost + limits.price * (limits.goal - saved)
        alive = ((bound <= ceiling) & (saved + limits.most[point] >= limits.goal)).nonzero()[:, 0]
        alive = alive[_undominated(value[:, alive], limits.target - limits.least[point], keep)]
        if len(alive) > width:
            complete = False
            alive = alive[bound[alive].argsort(stable=True)[:width].sort().values]
        if values.shape[1] + len(alive) > MAX_LABELS:
            raise MemoryLimitError(
                f"The best {keep} sets were asked for, but more than {MAX_LABELS} parts of sets are too close to "
                "call. Ask for fewer sets, or round the savings to fewer digits."
            )
        begin[point], count[point] = values.shape[1], len(alive)
        values, paths = torch.cat([values, value[:, alive]], 1), torch.cat([paths, path[:, alive]], 1)

    sets: list[list[Candidate]] = []
    for label in range(int(begin[0]), int(begin[0]) + min(keep, int(count[0]))):
        sets.append([])
        while (first := int(paths[0, label])) >= 0:
            sets[-1].append(candidates[first])
            label = int(paths[1, label])
    return sets, ceiling, complete


def _undominated(value: Tensor, enough: float, keep: int) -> Tensor:
    """Indices, best first, of the labels [damage, saved, removed, added, edits; n] that fewer than keep better ones outsave.

    Savings beyond `enough` count as equal: no choice in front can then miss the target. What decides ties adds up, so
    that better labels stay better whatever is put in front of them.
    """
    order = torch.arange(value.shape[1])
    for key in (value[4], value[3], value[2], value[0]):  # stable sorts, least important key first
        order = order[key[order].argsort(stable=True)]
    saved = value[1, order].clamp(max=enough)
    pushed, largest = saved, torch.full_like(saved, -math.inf)
    for _ in range(keep):  # after k rounds: the k-th largest saved before each label, and what it pushed down
        largest = torch.cat([saved.new_full((1,), -math.inf), pushed.cummax(0).values[:-1]])
        pushed = torch.minimum(pushed, largest)
    return order[saved > largest]
