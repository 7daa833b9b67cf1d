"""One pass over data: what statistics see, and what is left behind."""

import gc
import weakref

import pytest
import torch
from planted import Keywords, Positions, Residual, Unpacking
from torch import nn

from delayer.errors import DataError, MemoryLimitError, NotFiniteError
from delayer.families import chain_of
from delayer.network.chain import Chain
from delayer.observing.one_pass import observe, observe_pair, watching
from delayer.observing.rows import Rows, chosen
from delayer.observing.stats import Geometry, Hsic, Moments
from delayer.observing.stats.hsic import hsic_of
from delayer.tasks.splits import Batch, Split

X = torch.randn(11, 7, 8, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Blocks, then a head that counts its calls."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Residual(8) for _ in range(4))
        self.drop, self.head_calls = nn.Dropout(0.5), 0

    def forward(self, x):
        for block in self.blocks:
            x = self.drop(block(x))
        self.head_calls += 1
        return x.mean(1)


class Answering(Plain):
    """Answers with a record, as Hugging Face models do."""

    def forward(self, x):
        return {"loss": None, "logits": super().forward(x)}


class InPlace(Plain):
    """The parent changes every block's output, and each block its own input, after they were seen."""

    def forward(self, x):
        for block in self.blocks:
            y = block(x)
            x.zero_()
            x = y.clone()
            y += 100
        return x.mean(1)


class Padded(nn.Module):
    """Reads ids and a mask as text networks do; padding leaves NaN behind."""

    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(50, 8), nn.ModuleList(Residual(8) for _ in range(3))

    def forward(self, input_ids, attention_mask):
        x = self.embed(input_ids).masked_fill(attention_mask[..., None] == 0, torch.nan)
        for block in self.blocks:
            x = block(x)
        return x


class Recorder:
    """A statistic that keeps its rows."""

    def __init__(self, points, rows=Rows()):
        self.points, self.rows, self.seen, self.ids = tuple(points), rows, {p: [] for p in points}, []

    @property
    def num_rows(self):
        return len(self[self.points[0]])

    def update(self, rows, ids):
        self.ids += ids.tolist()
        for p in self.points:
            self.seen[p].append(rows[p])

    def __getitem__(self, point):
        return torch.cat(self.seen[point]) if self.seen[point] else torch.zeros(0)


def chain(kind=Plain) -> Chain:
    torch.manual_seed(0)
    return chain_of(kind(), X[:2].clone())


def batches(size=4, x=X) -> list[Batch]:
    return [Batch(x[k : k + size].clone(), None, k) for k in range(0, len(x), size)]


def streams(c: Chain) -> list[torch.Tensor]:
    """The hidden states by hand, for chains of `Residual`."""
    found = [X]
    with torch.no_grad():
        for i in range(c.num_blocks):
            out = c.module(i)(found[-1])
            found.append(out[0] if isinstance(out, tuple) else out)
    return found


@pytest.mark.parametrize("kind", [Plain, Answering, InPlace, Unpacking, Keywords])
def test_sees_every_point_as_it_was(kind):
    c = chain(kind)
    stat = Recorder(range(c.num_points))
    observe(c, batches(), [stat])
    found = streams(c)
    for i, block in enumerate(c.blocks):
        torch.testing.assert_close(stat[block.inlet], found[i].flatten(0, 1))
        torch.testing.assert_close(stat[block.outlet], found[i + 1].flatten(0, 1))
    assert stat.ids == list(range(11))


def test_two_points_where_the_parent_comes_in_between():
    x = torch.randn(11, 8, 8)
    c = chain_of(Positions(), x[:2])
    nn.init.normal_(c.model.positions)
    stat = Recorder(range(c.num_points))
    observe(c, batches(5, x), [stat])
    before, after = c.blocks[1].outlet, c.blocks[2].inlet
    assert before != after
    gap = (stat[after] - stat[before]).reshape(11, 8, 8)
    torch.testing.assert_close(gap, c.model.positions.detach().expand(11, 8, 8), rtol=1e-4, atol=1e-5)


def test_one_pass_feeds_statistics_of_every_row_policy():
    c, s = chain(), streams(chain())
    calls = []
    c.module(0).register_forward_hook(lambda *_: calls.append(1))
    wanted = [Rows(), Rows("each", 0.5), Rows("mean"), Rows("first"), Rows("last")]
    every, share, mean, first, last = observe(c, batches(), [Recorder([1, 4], rows) for rows in wanted])
    assert len(calls) == 3
    for point in (1, 4):
        torch.testing.assert_close(every[point], s[point].flatten(0, 1))
        torch.testing.assert_close(mean[point], s[point].mean(1))
        assert torch.equal(first[point], s[point][:, 0]) and torch.equal(last[point], s[point][:, -1])
    assert 20 < share.num_rows < 60
    assert {tuple(r.tolist()) for r in share[4]} < {tuple(r.tolist()) for r in every[4]}


def test_the_seed_chooses_the_rows_and_the_batch_size_does_not():
    c, quarter = chain(), Rows("each", 0.25)
    one, two, other = (
        observe(c, batches(size), [Recorder([2], quarter)], seed=seed)[0] for size, seed in ((4, 1), (3, 1), (4, 2))
    )
    torch.testing.assert_close(one[2], two[2])
    assert one[2].shape != other[2].shape or not torch.equal(one[2], other[2])


def test_statistics_do_not_depend_on_the_batch_size():
    c = chain()
    found = []
    for size in (11, 4, 1):
        moments, hsic, geometry = observe(
            c,
            batches(size),
            [Moments([(0, 1, 2, 3, 4)], exact=True), Hsic(range(5), batch_size=8), Geometry([(0, 4)], Rows("last"), 5)],
        )
        found.append((moments.pair(1, 4).xy, hsic.chunks()[1], geometry.squared_distance[0, 4]))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_more_padding_changes_nothing(side):
    lengths, words = [5, 2, 6, 1], torch.randint(1, 50, (4, 6))

    def text(width):
        ids, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
        for k, n in enumerate(lengths):
            at = slice(0, n) if side == "right" else slice(width - n, None)
            ids[k, at], mask[k, at] = words[k, :n], 1
        return {"input_ids": ids, "attention_mask": mask}

    torch.manual_seed(0)
    c = chain_of(Padded(), text(6))
    kinds = [Rows(), Rows("each", 0.5), Rows("mean"), Rows("first"), Rows("last")]
    narrow, wide = (observe(c, [Batch(text(width), None, 0)], [Recorder(range(4), rows) for rows in kinds]) for width in (6, 17))
    for one, two in zip(narrow, wide, strict=True):
        for point in range(4):
            torch.testing.assert_close(one[point], two[point], rtol=1e-5, atol=1e-6)
    assert narrow[0].num_rows == sum(lengths)


def hooks_of(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_mask_that_hides_nothing_chooses_the_rows_of_no_mask():
    """Positions are counted from the first real token, with a mask and without."""
    ids, half = torch.arange(5), Rows("each", 0.5)
    plain = chosen(half, ids, 40, None, 3)
    assert torch.equal(plain, chosen(half, ids, 40, torch.ones(5, 40), 3)) and 0 < len(plain) < 200
    shifted = torch.ones(5, 43)
    shifted[:, :3] = 0
    assert torch.equal(plain // 40 * 43 + plain % 40 + 3, chosen(half, ids, 43, shifted, 3))


def test_nothing_stays_behind():
    c = chain()
    c.model.train()
    c.module(1).eval()
    before = [m.training for m in c.model.modules()]
    stat = Recorder([0, 2])
    observe(c, batches(), [stat])
    assert hooks_of(c.model) == 0 and [m.training for m in c.model.modules()] == before
    assert not any(rows.requires_grad for rows in stat.seen[2])
    row = weakref.ref(stat.seen[2][0])
    del stat
    gc.collect()
    assert row() is None


class Failing(nn.Module):
    def __init__(self, block, number):
        super().__init__()
        self.block, self.number, self.calls = block, number, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.number:
            raise RuntimeError("out of luck")
        return self.block(x)


@pytest.mark.parametrize("number", [1, 2])
def test_hooks_go_away_after_an_exception(number):
    c = chain()
    c.replace_(2, Failing(c.module(2), number))
    c.model.train()
    with pytest.raises(RuntimeError, match="out of luck"):
        observe(c, batches(), [Recorder(range(5))])
    assert hooks_of(c.model) == 0 and c.model.training


def test_the_forward_ends_when_the_last_wanted_point_was_seen():
    c = chain()
    c.model.head_calls = 0
    c.replace_(3, Failing(c.module(3), 1))
    observe(c, batches(), [Recorder([0, 1]), Recorder([3], Rows("first"))])
    assert c.module(3).calls == 0 and c.model.head_calls == 0
    with watching(c, [0], lambda point, hidden: None, stop_early=False), torch.no_grad():
        c.replace_(3, c.module(3).block)
        c.model(X)
    assert c.model.head_calls == 1


def test_no_swallowed_exception_on_the_way_stops_the_early_end():
    class Careful(Plain):
        def forward(self, x):
            try:
                return super().forward(x)
            except Exception:
                return x

    c, stat = chain(Careful), Recorder([1])
    c.model.head_calls = 0
    observe(c, batches(), [stat])
    assert stat.num_rows == 77 and c.model.head_calls == 0


@pytest.mark.parametrize(("block", "where"), [(0, "behind block 0"), (2, "behind block 2")])
def test_nan_is_named_where_it_first_appears(block, where):
    c = chain()
    with torch.no_grad():
        c.module(block).fc2.bias[3] = torch.inf
    with pytest.raises(NotFiniteError, match=f"first appears {where}, in samples 0 to 3. Check the weights"):
        observe(c, batches(), [Recorder(range(5)), Recorder([1], Rows("mean"))])
    x = X.clone()
    x[6, 2, 1] = torch.nan
    with pytest.raises(NotFiniteError, match="at the input of block 0, in samples 4 to 7"):
        observe(chain(), batches(x=x), [Recorder(range(5))])


def test_large_but_finite_values_pass():
    c = chain()
    c.model.half()
    x = torch.full((2, 7, 8), 3e4, dtype=torch.half)  # whose sum is infinite in half precision
    observe(c, batches(x=x), [Recorder([0], Rows())])


def test_nothing_to_see_is_an_error():
    with pytest.raises(DataError, match="data set is empty"):
        observe(chain(), [], [Recorder([0])])
    with pytest.raises(DataError, match="No point is to be watched"):
        observe(chain(), batches(), [])
    with pytest.raises(DataError, match="No row was seen under the row policy each:1e-09.*larger share"):
        observe(chain(), batches(), [Recorder([0], Rows("each", 1e-9))])


def test_a_network_without_removable_blocks_still_has_its_other_statistics():
    empty, hsic = observe(chain(), batches(), [Geometry([], Rows("first"), 5), Hsic(range(5))])
    assert empty.num_rows == 0 and hsic.num_rows == 11 and empty.cosine.isnan().all()


def test_a_skipped_block_and_a_batch_elsewhere_are_named():
    c = chain()
    c.model.blocks.forward = None
    c.model.forward = lambda x: c.module(0)(x)
    with pytest.raises(DataError, match=r"Points \[2, 3\] were never passed"):
        observe(c, batches(), [Recorder([1, 2, 3])])
    c = chain()
    c.model.forward = lambda x: c.module(0)(x.transpose(0, 1))
    with pytest.raises(DataError, match="Point 0 has 7 samples where the batch has 4"):
        observe(c, batches(), [Recorder([0])])


def test_too_little_memory_says_what_to_do():
    class Greedy(Recorder):
        def update(self, rows, ids):
            raise self.error

    on_cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    for error in (torch.OutOfMemoryError("CUDA"), MemoryError(), on_cpu):
        stat = Greedy([0])
        stat.error = error
        with pytest.raises(MemoryLimitError, match="batches of 4 does not fit.*batch size of 2"):
            observe(chain(), batches(), [stat])
    stat.error = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        observe(chain(), batches(), [stat])


def test_batches_are_read_ahead_and_progress_is_told():
    split = Split("fit", "image-classification", 11, 4, lambda r: (X[r.start : r.stop].clone(), None))
    told = []
    stat = observe(chain(), split, [Recorder([0])], progress=lambda done, total: told.append((done, total)))[0]
    assert torch.equal(stat[0], X.flatten(0, 1)) and told == [(1, 3), (2, 3), (3, 3)]


def test_one_sample_is_enough():
    c = chain()
    moments, hsic = observe(c, batches(x=X[:1]), [Moments([(0, 4)]), Hsic(range(5))])
    assert moments.num_rows == 7 and hsic.num_rows == 1


def test_a_pair_of_networks_is_watched_on_the_same_rows():
    original, cut = chain(), chain()
    with torch.no_grad():
        cut.module(1).fc2.weight.zero_()
    rows = Rows("each", 0.5)
    found = observe_pair((cut, 2), (original, 3), batches(), rows, seed=3).pair(0, 1)
    x, y = (observe(c, batches(), [Recorder([p], rows)], seed=3)[0][p].double() for c, p in ((cut, 2), (original, 3)))
    torch.testing.assert_close(found.xy, (x - x.mean(0)).T @ (y - y.mean(0)))
    assert found.num_rows == len(x) and hooks_of(cut.model) == hooks_of(original.model) == 0
    with pytest.raises(DataError, match="empty"):
        observe_pair((cut, 2), (original, 3), [], rows)


def test_a_module_is_watched_by_its_path_beside_points():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 5)).eval()
    chain, x = chain_of(model, torch.zeros(2, 6)), torch.randn(9, 6)
    stat = Hsic(("1", 3, "0"), batch_size=9)
    observe(chain, [Batch(x[:4], None, 0), Batch(x[4:], None, 4)], [stat])
    hidden = [model[0](x), model[1](model[0](x)), model(x)]
    expected = hsic_of([hidden[1].double().detach(), hidden[2].double().detach(), hidden[0].double().detach()])
    torch.testing.assert_close(stat.chunks()[1][0], expected, rtol=1e-5, atol=1e-9)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="first appears behind 1, in samples 0 to 3"):
        observe(chain, [Batch(x[:4], None, 0)], [Hsic(("1", 3), batch_size=4)])
