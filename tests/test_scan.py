"""The predicted damage of every operator on every span is what running the cut would show."""

import pytest
import torch
from planted import Residual
from torch import nn

from delayer.families import chain_of
from delayer.fitting.affine import RIDGES
from delayer.fitting.operators import fit, operator_of
from delayer.fitting.operators.affine import Affine
from delayer.fitting.operators.low_rank import LowRank
from delayer.network.chain import Chain, Span
from delayer.observing.one_pass import observe
from delayer.observing.stats import Moments
from delayer.search.scan import moment_groups, scan
from delayer.tasks.splits import Batch

WIDTH = 12


class Small(nn.Module):
    """Block 1 is the identity, block 3 is affine, blocks 0, 2 and 4 are neither."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(WIDTH) for _ in range(5))
        nn.init.zeros_(self.blocks[1].fc2.weight)
        nn.init.zeros_(self.blocks[1].fc2.bias)
        nn.init.constant_(self.blocks[3].fc1.bias, 50)  # its units are always on

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def rows(num: int, seed: int) -> torch.Tensor:
    return torch.randn(num, 3, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def chain() -> Chain:
    torch.manual_seed(0)
    return chain_of(Small(), rows(2, 0))


def moments(chain: Chain, num: int, seed: int, groups=None) -> Moments:
    stat = Moments(groups or [chain.segments[0].points], exact=True)
    return observe(chain, [Batch(rows(num, seed), None, 0)], [stat])[0]


def found(table, span: str, operator: str, rank: int | None = None):
    rows = [r for r in table.spans if f"{r.start}:{r.stop}" == span and r.operator == operator]
    return next(r for r in rows if rank in (None, r.options.get("rank")))


@pytest.fixture(scope="module")
def table(chain):
    return scan(chain, moments(chain, 60, 1), moments(chain, 40, 2), macs=[1000, 1000, 1000, 1000, 1000])


def test_judges_every_operator_on_every_span(table):
    kinds = [("drop", None), ("diagonal", None), ("low_rank", 2), ("low_rank", 4), ("affine", None)]
    assert [(r.start, r.stop, r.operator, r.options.get("rank")) for r in table.spans] == [
        (i, j, *kind) for i in range(5) for j in range(i + 1, 6) for kind in kinds
    ]
    assert (table.rows, table.num_rows_fit, table.num_rows_heldout) == ("each", 180, 120)


def test_planted_redundancy_is_found(table):
    assert found(table, "1:2", "drop").residual < 1e-12
    assert found(table, "3:4", "affine").residual < 1e-10 < found(table, "3:4", "drop").residual
    assert found(table, "0:1", "affine").residual > 0.001


@pytest.mark.parametrize("operator", ["drop", "diagonal", "low_rank", "affine"])
def test_a_residual_is_what_running_the_map_on_held_out_samples_gives(chain, table, operator):
    for span in chain.spans():
        row = found(table, str(span), operator, 4 if operator == "low_rank" else None)
        x = rows(40, 2)
        with torch.no_grad():
            for i in range(span.start):
                x = chain.module(i)(x)
            y = x
            for i in range(span.start, span.stop):
                y = chain.module(i)(y)
            if operator == "drop":
                guess = x
            else:
                pair = moments(chain, 60, 1).pair(*chain.ends(span))
                guess = fit(pair, operator_of(row.operator, row.options))(x)
        x, y, guess = (t.flatten(0, 1).double() for t in (x, y, guess))
        actual = float((guess - y).square().sum() / (y - y.mean(0)).square().sum())
        assert row.residual == pytest.approx(actual, rel=1e-3, abs=1e-9)


def test_the_residual_on_fit_is_what_the_map_leaves_of_the_samples_that_it_was_fitted_to(chain, table):
    for span in chain.spans():
        row = found(table, str(span), "affine")
        start, stop = chain.ends(span)
        x, y = (_stream(chain, rows(60, 1), point).flatten(0, 1).double() for point in (span.start, span.stop))
        guess = fit(moments(chain, 60, 1).pair(start, stop), Affine(**row.options))(x.float()).detach().double()
        actual = float((guess - y).square().sum() / (y - y.mean(0)).square().sum())
        assert row.residual_fit == pytest.approx(actual, rel=1e-3, abs=1e-9)
        assert row.residual_fit < row.residual or row.residual < 1e-9


@torch.no_grad()
def _stream(chain: Chain, x: torch.Tensor, num_blocks: int) -> torch.Tensor:
    """What so many blocks make of an input."""
    for i in range(num_blocks):
        x = chain.module(i)(x)
    return x


def test_the_ridge_is_chosen_on_held_out_rows(chain):
    few, many = moments(chain, 5, 1), moments(chain, 400, 1)
    held = moments(chain, 200, 2)
    light, heavy = (scan(chain, fitted, held, operators=["affine"]) for fitted in (many, few))
    for row in (*light.spans, *heavy.spans):
        pair = (many if row in light.spans else few).pair(*chain.ends(Span(row.start, row.stop)))
        errors = []
        for ridge in RIDGES:
            map_ = fit(pair, Affine(ridge=ridge))
            x, y = rows(200, 2), None
            with torch.no_grad():
                for i in range(row.start):
                    x = chain.module(i)(x)
                y = x
                for i in range(row.start, row.stop):
                    y = chain.module(i)(y)
                errors.append(float((map_(x) - y).square().sum() / (y - y.mean((0, 1))).square().sum()))
        assert row.residual == pytest.approx(min(errors), rel=1e-3, abs=1e-9)
    assert sum(r.options.get("ridge") for r in heavy.spans) > sum(r.options.get("ridge") for r in light.spans)


def test_a_map_fitted_to_its_own_rows_is_at_least_as_good_as_dropping(table):
    for span in {(r.start, r.stop) for r in table.spans}:
        mine = [r for r in table.spans if (r.start, r.stop) == span]
        dropped = next(r for r in mine if r.operator == "drop")
        assert all(r.residual_fit <= dropped.residual_fit * (1 + 1e-9) + 1e-15 for r in mine)


def test_savings_are_what_goes_less_what_comes(chain, table):
    block = sum(p.numel() for p in chain.module(0).parameters())
    for operator, rank in (("drop", None), ("diagonal", None), ("low_rank", 4), ("affine", None)):
        row = found(table, "1:4", operator, rank)
        one = operator_of(operator, {"rank": rank} if rank else {})
        new = 0 if operator == "drop" else sum(p.numel() for p in one.module(WIDTH).parameters())
        assert (row.blocks_saved, row.params_saved) == (3, 3 * block - new)
        assert row.macs_saved == 3000 - 3 * one.num_macs(WIDTH)
    operators = ("drop", "diagonal", "low_rank", "affine", "linear")
    settings = [operator_of(name, {"rank": 4} if name == "low_rank" else {}) for name in operators]
    assert [one.num_macs(12) for one in settings] == [0, 12, 96, 144, 144]
    assert scan(chain, moments(chain, 9, 1), moments(chain, 9, 2), operators=["drop"]).spans[0].macs_saved is None


def test_only_what_was_asked_for_and_watched_is_judged(chain):
    fitted, held = moments(chain, 60, 1, [(1, 3), (0, 5)]), moments(chain, 40, 2, [(1, 3), (0, 5)])
    table = scan(chain, fitted, held, operators=["linear"])
    assert [(r.start, r.stop, r.operator, r.options.get("ridge")) for r in table.spans] == [
        (0, 5, "linear", None),
        (1, 3, "linear", None),
    ]
    fitted, held = moments(chain, 60, 1), moments(chain, 40, 2)
    table = scan(chain, fitted, held, spans=[Span(4, 5), Span(1, 3)], operators=["affine"])
    whole = scan(chain, fitted, held, operators=["affine"])
    assert list(table.spans) == [found(whole, "1:3", "affine"), found(whole, "4:5", "affine")]


def test_ranks_are_a_sixth_and_a_third_of_the_width():
    assert [tuple(one.rank for one in LowRank.settings(d)) for d in (768, 192, 4, 2, 1)] == [(128, 256), (32, 64), (1,), (1,), ()]


def test_all_pairs_where_they_fit_into_memory(chain):
    need = 2 * 8 * WIDTH**2 * 21
    groups, why = moment_groups(chain, memory_bytes=need)
    assert groups == [(0, 1, 2, 3, 4, 5)]
    assert why == "one pass keeps the moments of all pairs (0.00 GiB, the limit is 0.00 GiB)"


def test_the_best_pairs_where_not_all_fit(chain):
    pair, need = 2 * 8 * WIDTH**2 * 3, 2 * 8 * WIDTH**2 * 21
    prefer = [Span(2, 4), Span(0, 1), Span(1, 5)]
    groups, why = moment_groups(chain, memory_bytes=need - 1, prefer=prefer)
    assert groups == [(2, 4), (0, 1), (1, 5)]
    groups, why = moment_groups(chain, memory_bytes=2 * pair, prefer=prefer)
    assert groups == [(2, 4), (0, 1)]
    assert why == (
        "the moments of all pairs would need 0.00 GiB, the limit is 0.00 GiB: "
        "a light first pass ranks the spans, a second keeps the 2 best pairs"
    )
    assert moment_groups(chain, memory_bytes=pair - 1, prefer=prefer)[0] == []
    held, fitted = (moments(chain, num, num, groups) for num in (40, 60))
    assert {(r.start, r.stop) for r in scan(chain, fitted, held).spans} == {(2, 4), (0, 1)}


def test_single_precision_is_enough_to_judge(chain, table):
    groups = [chain.segments[0].points]
    stats = [observe(chain, [Batch(rows(n, s), None, 0)], [Moments(groups)])[0] for n, s in ((60, 1), (40, 2))]
    for row, exact in zip(scan(chain, *stats).spans, table.spans, strict=True):
        assert row.residual == pytest.approx(exact.residual, rel=1e-4, abs=1e-6)


def test_spans_that_no_map_fits_keep_dropping_and_are_named():
    """Block 1 gives the same for every sample."""
    torch.manual_seed(0)
    model = Small()
    model.blocks[1].forward = lambda x: torch.full_like(x, 2.0)
    chain = chain_of(model, rows(2, 0))
    table = scan(chain, moments(chain, 60, 1), moments(chain, 40, 2))
    assert {(r.start, r.stop) for r in table.spans if r.operator != "drop"} == {(0, 1)}
    assert any(
        text == "1:2: the features that it should give never change, so there is nothing to tell a map by"
        for text in table.failed
    )
    assert all(torch.isfinite(torch.tensor(r.residual)) for r in table.spans)
