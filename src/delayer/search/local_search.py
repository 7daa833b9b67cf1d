"""Local search over sets of cuts that the real network judges, for damage that does not add up (it never quite does)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from delayer.errors import BudgetError, SpanError
from delayer.search.exact_search import Candidate, CandidateSet
from delayer.search.ties import Order, best_of


def refine(
    start_sets: Iterable[Sequence[Candidate]],
    pool: Sequence[Candidate],
    target: float,
    grade: Callable[[CandidateSet], float],
    *,
    effort: int = 40,
    greedy: int = 0,
    known: Mapping[CandidateSet, float] | None = None,
    on_measured: Callable[[CandidateSet, float], None] | None = None,
) -> tuple[CandidateSet, list[tuple[CandidateSet, float]]]:
    """The set that saves the target with the best measured grade, and all measurements in order.

    Of grades that rounding cannot tell apart (`ties`) the set that removes least wins, then the one that adds least, has
    the fewest edits, begins first.

    grade: measures a set on the real network; lower is better, 0 is as good as uncut (KL to it, say), NaN is inf.
    effort: how many sets are graded at most, start sets included.
    greedy: if positive, one set is also grown from nothing: of this many candidates with the lowest expectation
        per unit saved, the one with the best joint grade, again and again. Its first stages miss the target.
    known: grades of an interrupted run. They replace measuring but count as effort, so that a resumed run ends as
        it would have. on_measured hears of each new grade.

    First the start sets are graded (one that misses the target teaches, but cannot win), then the grown ones, then
    neighbours of the best set so far, lowest expectation first, until none is left. A neighbour takes one
    candidate of the pool in, and out what that overlaps and at most one more. No set is graded twice, and none of which a
    member could stay while the others save the target.

    Raises SpanError for a start set that overlaps itself, BudgetError if nothing that was graded saves the target.
    Source of the growing: Song et al. 2024 (SLEB), arXiv 2402.09025. Fidelity: SLEB grades all blocks each time.
    """
    starts = [_in_order(chosen) for chosen in start_sets]
    for chosen in starts:
        if any(a.stop > b.start for a, b in pairwise(chosen)):
            spans = ", ".join(f"{c.start}:{c.stop}" for c in chosen)
            raise SpanError(f"The start set {spans} overlaps itself. Give sets such as those of best_spans.")
    starts = [_needed(chosen, target) for chosen in starts]
    pool = list(dict.fromkeys([*pool, *(c for chosen in starts for c in chosen)]))
    known = {_in_order(chosen): value for chosen, value in (known or {}).items()}
    measured: dict[CandidateSet, float] = {}
    for chosen in _proposals(starts, pool, target, greedy, measured):
        if chosen in measured or takes_too_much(chosen, target):
            continue
        if len(measured) >= effort:
            break
        value = known[chosen] if chosen in known else float(grade(chosen))
        measured[chosen] = math.inf if math.isnan(value) else value
        if on_measured and chosen not in known:
            on_measured(chosen, measured[chosen])
    best = _best(measured, target)
    if best is None:
        raise BudgetError(
            f"A saving of {target:g} was asked for, but none of the {len(measured)} sets graded saves it. "
            "Start from sets of best_spans for this target, or allow more effort."
        )
    return best, list(measured.items())


def _in_order(chosen: Iterable[Candidate]) -> CandidateSet:
    return tuple(sorted(chosen, key=lambda c: c.start))


def _saved(chosen: CandidateSet) -> float:
    return math.fsum(c.saved for c in chosen)


def takes_too_much(chosen: CandidateSet, target: float) -> bool:
    """Whether one of a set's members could stay, and the others would still save the target."""
    return len(chosen) > 1 and _saved(chosen) - min(c.saved for c in chosen) >= _floor(target) > 0


def _needed(chosen: CandidateSet, target: float) -> CandidateSet:
    """A set without members that could stay, those of the most damage first."""
    while takes_too_much(chosen, target):
        spare = [c for c in chosen if _saved(chosen) - c.saved >= _floor(target)]
        chosen = tuple(c for c in chosen if c is not max(spare, key=lambda c: c.damage))
    return chosen


def _floor(target: float) -> float:
    return target - 3e-12 * abs(target)  # no stricter than best_spans, whatever the order of sums


def _best(measured: Mapping[CandidateSet, float], target: float) -> CandidateSet | None:
    """The set with the lowest grade among those that save the target, the least of those that tie."""
    enough = [chosen for chosen in measured if _saved(chosen) >= _floor(target)]
    return best_of(enough, measured.__getitem__, least_first) if enough else None


def least_first(chosen: CandidateSet) -> Order:
    """Orders sets that are equally good: what they remove, what they add, how many edits, what they miss, where they begin."""
    cost = math.fsum(c.takes for c in chosen), math.fsum(c.added for c in chosen), len(chosen)
    missed = float(f"{math.fsum(c.missed for c in chosen):.3e}")
    return Order(cost, (missed, [(c.start, c.stop) for c in chosen]))


def _proposals(
    starts: Sequence[CandidateSet], pool: Sequence[Candidate], target: float, greedy: int, measured: Mapping[CandidateSet, float]
) -> Iterator[CandidateSet]:
    """Which set to grade next, by what `measured` holds when asked. A set already measured may come again."""
    yield from starts
    index = {c: i for i, c in enumerate(pool)}
    start, stop = torch.tensor([(c.start, c.stop) for c in pool], dtype=torch.long).reshape(-1, 2).T
    damage, saved = torch.tensor([(c.damage, c.saved) for c in pool], dtype=torch.float64).reshape(-1, 2).T
    blocks = torch.arange(max((c.stop for c in pool), default=0))
    operators = {name: i for i, name in enumerate(dict.fromkeys(c.operator for c in pool))}
    used = torch.eye(len(operators))[[operators[c.operator] for c in pool]]
    features = torch.cat([(start[:, None] <= blocks) & (blocks < stop[:, None]), used], 1).double()

    def members(chosen: CandidateSet) -> list[int]:
        return [index[c] for c in chosen]

    def apart(chosen: CandidateSet) -> Tensor:
        """1 where one of the chosen and one of the pool share no block, else 0 [chosen, pool]."""
        own = members(chosen)
        return ((stop <= start[own, None]) | (stop[own, None] <= start)).double()

    def expected() -> Tensor:
        return _expected(damage, features, [(members(chosen), value) for chosen, value in measured.items()])

    grown: CandidateSet = ()
    while greedy > 0 and _saved(grown) < _floor(target):
        free = ((saved > 0) & (apart(grown) > 0).all(0)).nonzero()[:, 0]
        if len(free) == 0:
            break
        rate = expected()[free] / saved[free].clamp(max=target - _saved(grown))
        trials = [_in_order([*grown, pool[i]]) for i in free[rate.argsort(stable=True)[:greedy]].tolist()]
        yield from trials
        grown = min(trials, key=lambda trial: (measured[trial] / min(_saved(trial), target), least_first(trial)))

    while (best := _best(measured, target)) is not None:
        own, stays = members(best), apart(best)
        saving, hope = (  # [taken out besides what overlaps: each of the set, or none; taken in: each of the pool]
            worth + worth[own] @ stays - torch.cat([worth[own, None] * stays, torch.zeros_like(worth)[None]])
            for worth in (saved, expected())
        )
        allowed = saving >= _floor(target)
        order = hope.where(allowed, math.inf).flatten().argsort(stable=True)[: int(allowed.sum())]
        for out, into in (divmod(number, len(pool)) for number in order.tolist()):
            kept = (c for i, c in enumerate(best) if i != out and stays[i, into])
            neighbour = _in_order([*kept, pool[into]])
            if neighbour not in measured and not takes_too_much(neighbour, target):
                yield neighbour
                break
        else:
            return


def _expected(damage: Tensor, features: Tensor, graded: Sequence[tuple[list[int], float]]) -> Tensor:
    """What each candidate is expected to add to a set's grade [pool].

    damage [pool]; features [pool, blocks + operators], 1 for each block covered and for the operator; graded: the
    members of each set so far, and its grade.

    Damage, brought to the scale of the grades, plus a ridge regression on the features of what that gets wrong:
    spans that share blocks learn from each other, and blocks that go badly together are avoided. The ridge is
    small since grades are nearly free of noise: one moves the expectation of its own set nine tenths of the way.
    """
    graded = [(own, value) for own, value in graded if own and math.isfinite(value)]
    if not graded:
        return damage
    grades = torch.tensor([value for _, value in graded], dtype=torch.float64)
    damages = torch.stack([damage[own].sum() for own, _ in graded])
    scale = (grades.sum() / damages.sum()).item()
    if not 0 < scale < math.inf:  # damage that says nothing, or has the wrong sign, is in no unit
        scale = 1.0
    rows = torch.stack([features[own].sum(0) for own, _ in graded])
    gram = rows @ rows.T
    ridge = 0.1 * gram.diagonal().mean() * torch.eye(len(graded), dtype=torch.float64)
    wrong = torch.linalg.solve(gram + ridge, grades - scale * damages)
    return scale * damage + features @ (rows.T @ wrong)
