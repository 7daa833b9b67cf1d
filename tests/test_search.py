"""best_spans equals brute force; refine finds what does not add up, and never measures twice."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch

from delayer.errors import BudgetError, MemoryLimitError, SpanError
from delayer.search import exact_search, local_search
from delayer.search.exact_search import Candidate, best_spans
from delayer.search.local_search import refine, takes_too_much
from delayer.search.ties import Order, as_good, best_first, best_of


def overlapping(chosen):
    return any(a.start < b.stop and b.start < a.stop for a, b in itertools.combinations(chosen, 2))


def saved(chosen):
    return sum(c.saved for c in chosen)


def all_sets(candidates):
    """Every non-overlapping set, in the order that best_spans promises, by trying all subsets."""
    ordered = sorted(candidates, key=lambda c: (c.start, c.stop))
    place = {c: i for i, c in enumerate(ordered)}
    subsets = (s for n in range(len(ordered) + 1) for s in itertools.combinations(ordered, n))
    good = [list(s) for s in subsets if not overlapping(s)]
    return sorted(
        good,
        key=lambda s: (sum(c.damage for c in s), sum(c.takes for c in s), sum(c.added for c in s), len(s), [place[c] for c in s]),
    )


def draw(seed, damages, savings, num_blocks=6, size=9):
    rng = random.Random(seed)
    found = {}
    while len(found) < size:
        start, stop = sorted(rng.sample(range(num_blocks + 1), 2))
        operator = rng.choice(["drop", "affine", "lowrank:16"])
        found[start, stop, operator] = Candidate(
            start, stop, operator, damages(rng), savings(rng), removed=stop - start, added=len(operator) - 4
        )
    return list(found.values())


def full_chain(seed, num_blocks, noise, operators=("drop", "affine")):
    """Every span with every operator; the damage is the saving with a little noise, the hardest case to choose in."""
    rng = random.Random(seed)
    weights = [rng.uniform(1, 2) for _ in range(num_blocks)]
    spans = itertools.combinations(range(num_blocks + 1), 2)
    rows = [(a, b, op, sum(weights[a:b]) - i * rng.random()) for a, b in spans for i, op in enumerate(operators)]
    return [Candidate(a, b, op, s * rng.uniform(1 - noise, 1 + noise), s) for a, b, op, s in rows]


CASES = {  # eighths add up exactly in any order, so that ties are ties
    "many ties": (lambda r: r.randint(0, 3) / 8, lambda r: r.randint(1, 3)),
    "real numbers": (lambda r: r.random(), lambda r: r.random()),
    "savings of both signs": (lambda r: r.randint(0, 5) / 8, lambda r: r.randint(-3, 5) / 8),
    "damage of both signs": (lambda r: r.randint(-5, 5) / 8, lambda r: r.randint(-3, 5) / 8),
    "no saving at all": (lambda r: r.randint(-2, 5) / 8, lambda r: r.choice([0, 0, 0, 2])),
    "large savings": (lambda r: r.expovariate(1), lambda r: float(r.randint(1_000_000, 9_000_000))),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_brute_force(case):
    for seed in range(2):
        candidates = draw(seed, *CASES[case])
        sets = all_sets(candidates)
        most = max(saved(s) for s in sets)
        for share, keep in itertools.product((-0.3, 0.5, 1), (1, 3, 1000)):
            expected = [s for s in sets if saved(s) >= share * most][:keep]
            assert best_spans(candidates, share * most, num_blocks=6, keep=keep) == expected, (seed, share, keep)


@pytest.mark.parametrize("keep", [1, 5])
def test_equals_brute_force_where_the_beam_must_grow(keep, monkeypatch):
    """A full chain of five blocks, all sets of it."""
    sweep, widths = exact_search._sweep, []
    monkeypatch.setattr(exact_search, "_sweep", lambda *args: widths.append(args[-1]) or sweep(*args))
    for seed in range(8):
        candidates = full_chain(seed, 5, noise=0.02)

        def grow(point, chosen=(), candidates=candidates):
            yield list(chosen)
            for c in candidates:
                if c.start >= point:
                    yield from grow(c.stop, (*chosen, c))

        good = sorted((s for s in grow(0) if saved(s) >= 4), key=lambda s: sum(c.damage for c in s))
        assert best_spans(candidates, 4, num_blocks=5, keep=keep) == good[:keep]
    assert max(widths) > min(widths) == 4 * keep


def test_a_long_chain_keeps_the_laws():
    candidates = full_chain(0, 48, noise=0.5, operators=("drop", "affine", "lowrank:16"))
    sets = best_spans(candidates, 20.0, num_blocks=48, keep=16)
    damages = [sum(c.damage for c in s) for s in sets]
    assert len({tuple(s) for s in sets}) == 16
    assert damages == sorted(damages)
    assert all(saved(s) >= 20 and not overlapping(s) for s in sets)
    assert sets[:1] == best_spans(candidates, 20.0, num_blocks=48)


def test_order_of_candidates_and_repeats_change_nothing():
    candidates = draw(3, *CASES["real numbers"])
    shuffled = random.Random(0).sample(candidates * 2, 2 * len(candidates))
    assert best_spans(shuffled, 0.5, num_blocks=6, keep=9) == best_spans(candidates, 0.5, num_blocks=6, keep=9)


def test_ties_go_to_the_least_removed_then_the_least_added_then_fewer_edits_then_earlier_spans_then_the_order_given():
    a, b, c, wide = (Candidate(i, i + n, "drop", d, n) for i, n, d in ((0, 1, 1), (1, 1, 1), (3, 1, 1), (1, 2, 2)))
    assert best_spans([a, b, c, wide], 1, num_blocks=4, keep=3) == [[a], [b], [c]]
    assert best_spans([a, b, c, wide], 2, num_blocks=4, keep=4) == [[wide], [a, b], [a, c], [b, c]]
    more = Candidate(0, 2, "affine", 1, 3)
    assert best_spans([c, more], 1, num_blocks=4) == [[c]]
    assert best_spans([more, replace(c, removed=3)], 1, num_blocks=4) == [[more]]
    assert best_spans([replace(a, added=2), c], 1, num_blocks=4) == [[c]]
    twin = Candidate(0, 1, "affine", 1, 1)
    assert best_spans([twin, a], 1, num_blocks=4, keep=2) == [[twin], [a]]


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_where_every_block_is_free_no_more_goes_than_was_asked(asked):
    """All spans of 8 identity blocks, dropped or mapped, cost nothing; so do the grades, but for rounding."""
    pool = [
        Candidate(i, j, name, 0.0, float(j - i), added=added)
        for i in range(8)
        for j in range(i + 1, 9)
        for name, added in (("affine", 72.0), ("drop", 0.0))
    ]
    for found in best_spans(pool, asked, num_blocks=8, keep=5):
        assert saved(found) == asked and {c.operator for c in found} == {"drop"}
    starts = [[c] for c in pool if (c.start, c.operator) == (2, "affine") and c.stop >= 5]
    rng = random.Random(0)
    best, _ = refine(starts, pool, asked, lambda s: rng.uniform(0, 1e-8), effort=200)
    assert saved(best) == asked and {c.operator for c in best} == {"drop"}


def test_a_tie_is_what_rounding_leaves_unsure_and_no_more():
    assert as_good(1e-8, 0) and not as_good(1e-6, 0)
    assert as_good(0.01 + 1e-5, 0.01) and not as_good(0.0101, 0.01)
    assert as_good(math.inf, math.inf) and not as_good(math.inf, 1.0) and as_good(-1.0, -1.0)
    damages = {"five": 0.0, "map": 3e-9, "one": 5e-9, "bad": 0.1, "broken": math.nan}
    order = {"five": (5, 0), "map": (1, 9), "one": (1, 0), "bad": (0, 0), "broken": (0, 0)}
    assert best_of(damages, damages.get, order.get) == "one"
    assert best_first(damages, damages.get, order.get) == ["one", "map", "five", "bad", "broken"]
    assert best_of(damages, damages.get) == "five"


def test_where_only_their_place_sets_ties_apart_what_changes_nothing_goes_first():
    """Logits of a small network are near 0.01: its blocks move the divergence by 1e-9, an identity by nothing."""
    damages = {"early": 1e-9, "identity": 1e-15, "late": 1e-15, "wide": 0.0}
    order = {name: Order((2 if name == "wide" else 1,), place) for place, name in enumerate(damages)}
    assert best_of(damages, damages.get, order.get) == "identity"
    assert best_of(damages, lambda name: damages[name] + 0.3, order.get) == "early", "which no finer look tells apart"


def test_a_target_that_sums_miss_by_rounding_is_met():
    candidates = [Candidate(i, i + 1, "drop", 1.0, s) for i, s in enumerate((0.7, 0.1, 0.1))]
    assert 0.1 + 0.1 + 0.7 < 0.9
    assert best_spans(candidates, 0.9, num_blocks=3) == [candidates]
    assert refine([candidates], candidates, 0.9, len)[0] == tuple(candidates)


def test_nothing_is_cut_for_nothing():
    assert best_spans([], 0, num_blocks=0) == [[]]
    assert best_spans([Candidate(0, 2, "drop", 0.5, 2)], 0, num_blocks=2, keep=5)[0] == []


def test_an_impossible_budget_says_what_is_possible():
    candidates = [Candidate(0, 2, "drop", 1, 2), Candidate(1, 4, "drop", 1, 3), Candidate(2, 3, "affine", 1, 0.5)]
    text = "A saving of 4 was asked for, but these 3 candidates can save at most 3. Lower the target"
    with pytest.raises(BudgetError, match=text):
        best_spans(candidates, 4, num_blocks=4)


@pytest.mark.parametrize(
    "wrong",
    [
        Candidate(2, 2, "drop", 0, 1),
        Candidate(3, 5, "drop", 0, 1),
        Candidate(-1, 1, "drop", 0, 1),
        Candidate(0, 1, "drop", math.inf, 1),
        Candidate(0, 1, "drop", 0, math.nan),
    ],
)
def test_a_candidate_that_is_none_is_refused(wrong):
    with pytest.raises(SpanError, match="was offered for 4 blocks. Use 0 <= start < stop <= 4 and finite"):
        best_spans([wrong], 0, num_blocks=4)


def test_no_sets_cannot_be_asked_for():
    with pytest.raises(ValueError, match="keep=0 sets were asked for. Ask for 1 or more."):
        best_spans([], 0, num_blocks=1, keep=0)


def test_a_choice_too_close_to_call_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(exact_search, "MAX_LABELS", 500)
    with pytest.raises(MemoryLimitError, match="more than 500 parts of sets .* round the savings to fewer digits"):
        best_spans(full_chain(0, 16, noise=1e-4), 9.0, num_blocks=16, keep=4)


BLOCKS = [Candidate(i, i + 1, "drop", 1 + i / 100, 1) for i in range(8)]


def pair_grade(chosen):
    """The damage, but blocks 0 to 4 go very badly together: 1 more for each pair. The additive damage cannot see it."""
    return sum(c.damage for c in chosen) + math.comb(sum(c.start < 5 for c in chosen), 2)


def test_refine_finds_a_planted_interaction_that_best_spans_misses():
    start = best_spans(BLOCKS, 4, num_blocks=8)
    assert [c.start for c in start[0]] == [0, 1, 2, 3]
    best, measured = refine(start, BLOCKS, 4, pair_grade)
    assert [c.start for c in best] == [0, 5, 6, 7]
    assert pair_grade(best) == min(pair_grade(s) for s in itertools.combinations(BLOCKS, 4))
    assert dict(measured)[best] == pair_grade(best)


@pytest.mark.parametrize("seed", range(6))
def test_refine_ends_where_no_neighbour_is_better(seed):
    """Neighbours by the definition: one in, out what it overlaps and at most one more."""
    rng = random.Random(seed)
    pool = draw(seed, lambda r: r.random(), lambda r: r.random(), num_blocks=8, size=14)
    noise = {}

    def grade(chosen):
        return sum(c.damage for c in chosen) + noise.setdefault(chosen, rng.random())

    best, measured = refine(best_spans(pool, 1.0, num_blocks=8, keep=3), pool, 1.0, grade, effort=10_000)
    assert grade(best) == min(value for chosen, value in measured)
    for new, out in itertools.product(pool, (None, *best)):
        kept = [c for c in best if c is not out and (c.stop <= new.start or new.stop <= c.start)]
        neighbour = tuple(sorted([*kept, new], key=lambda c: c.start))
        assert saved(neighbour) < 1 or takes_too_much(neighbour, 1.0) or neighbour in dict(measured)
    assert not any(takes_too_much(chosen, 1.0) for chosen, _ in measured)
    assert all(saved(chosen) >= 1 and not overlapping(chosen) for chosen, _ in measured)


def test_a_set_takes_too_much_where_a_member_could_stay():
    one, two, three = (Candidate(k, k + 1, "drop", 0.1, saved, 1, 0) for k, saved in enumerate((1.0, 2.0, 3.0)))
    assert takes_too_much((one, three), 3.0)
    assert takes_too_much((two, three), 2.0)
    assert not takes_too_much((one, two), 3.0)
    assert not takes_too_much((three,), 1.0)  # it cannot be made smaller
    assert not takes_too_much((one,), 3.0)  # it does not even save the target


def test_a_start_set_that_takes_too_much_is_graded_without_what_could_stay():
    one, two, three = (Candidate(k, k + 1, "drop", damage, 1.0, 1, 0) for k, damage in enumerate((0.3, 0.1, 0.2)))
    best, measured = refine([(one, two, three)], [one, two, three], 2.0, lambda chosen: sum(c.damage for c in chosen), effort=1)
    assert best == (two, three) and len(measured) == 1


def test_no_set_is_graded_twice_and_effort_is_all_that_is_spent():
    graded = []
    starts = best_spans(BLOCKS, 4, num_blocks=8, keep=3)
    for greedy, effort in itertools.product((0, 3), (1, 7, 20, 10_000)):
        graded.clear()
        _, measured = refine(
            [*starts, starts[0][::-1]], BLOCKS, 4, lambda s: graded.append(s) or pair_grade(s), effort=effort, greedy=greedy
        )
        assert len(set(graded)) == len(graded) <= effort
        assert graded == [chosen for chosen, _ in measured]
        assert len(graded) == effort or effort == 10_000


@pytest.mark.parametrize("greedy", [0, 2])
def test_a_killed_run_goes_on_to_the_same_end(greedy):
    starts = best_spans(BLOCKS, 4, num_blocks=8, keep=3)
    whole = refine(starts, BLOCKS, 4, pair_grade, effort=20, greedy=greedy)
    for killed_after in (0, 1, 5, 19, 20):
        known, graded, heard = dict(whole[1][:killed_after]), [], []
        again = refine(
            starts,
            BLOCKS,
            4,
            lambda s, seen=graded: seen.append(s) or pair_grade(s),
            effort=20,
            greedy=greedy,
            known=known,
            on_measured=lambda *new, heard=heard: heard.append(new),
        )
        assert again == whole
        assert heard == whole[1][killed_after:]
        assert graded == [chosen for chosen, _ in heard]


def test_growing_finds_the_set_without_a_start():
    """SLEB by hand: each step takes the block with the best joint grade, here with every block on the short list."""
    best, measured = refine([], BLOCKS, 4, pair_grade, effort=8 + 7 + 6 + 5, greedy=8)
    grown, graded = set(), [set(chosen) for chosen, _ in measured]
    for step in range(4):
        trials = [grown | {b} for b in BLOCKS if b not in grown]
        assert all(trial in graded for trial in trials)
        assert sum(len(chosen) == step + 1 for chosen in graded) == len(trials)
        grown = min(trials, key=pair_grade)
    assert set(best) == grown


def test_growing_pays_for_needed_savings_only():
    """The wide span is cheaper per block, but not per block that the target still needs; one saves nothing at all."""
    small, wide = Candidate(0, 2, "drop", 1.0, 2), Candidate(2, 9, "drop", 2.1, 7)
    useless = Candidate(9, 10, "drop", -1.0, 0)
    assert refine([], [useless, wide, small], 2, lambda s: s[0].damage, effort=1, greedy=1)[0] == (small,)


def test_a_start_that_misses_the_target_cannot_win_and_nan_is_the_worst():
    best, measured = refine(
        [BLOCKS[:1], BLOCKS[:3], BLOCKS[2:5]],
        BLOCKS,
        3,
        effort=3,
        grade=lambda s: math.nan if s[0].start == 0 and len(s) == 3 else len(s),
    )
    assert best == tuple(BLOCKS[2:5])
    assert [value for _, value in measured] == [1, math.inf, 3]


def test_refine_refuses_what_it_cannot_use():
    wide = Candidate(0, 3, "drop", 1, 3)
    with pytest.raises(SpanError, match="The start set 0:3, 2:3 overlaps itself"):
        refine([[BLOCKS[2], wide]], BLOCKS, 3, len)
    with pytest.raises(BudgetError, match="A saving of 3 was asked for, but none of the 1 sets graded saves it"):
        refine([BLOCKS[:2]], BLOCKS, 3, len)
    with pytest.raises(BudgetError, match="none of the 0 sets graded"):
        refine([], [], 3, len, greedy=2)


def test_expectations_learn_scale_operators_and_bad_company():
    damage = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    # four candidates on blocks 0, 0, 1, 2 with operators a, b, a, b
    features = torch.tensor([[1, 0, 0, 1, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1]]).double()
    assert torch.equal(local_search._expected(damage, features, []), damage)
    in_scale = local_search._expected(damage, features, [([0, 2], 12.0), ([1, 3], 18.0)])
    torch.testing.assert_close(in_scale, 3 * damage)
    # one operator's damage is half of what is measured, on blocks that were never seen as well
    learned = local_search._expected(damage, features, [([0, 2], 12.0), ([1], 2.0)])
    assert learned[3] / damage[3] < learned[2] / damage[2]
    # a set that broke the network has no number to learn from
    broken = local_search._expected(damage, features, [([0, 2], math.inf), ([1, 3], 18.0)])
    assert torch.equal(broken, local_search._expected(damage, features, [([1, 3], 18.0)]))
    # of its own error, beyond the common scale, a lone pair of equal and opposite grades learns nine tenths or more
    apart = local_search._expected(torch.ones(4, dtype=torch.float64), features, [([2], 3.0), ([3], 1.0)])
    assert 3 - 0.1 < apart[2] < 3 and 1 < apart[3] < 1 + 0.1
