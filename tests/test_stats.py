"""Laws that hold for every statistic; a new one adds a row to `CASES` and inherits them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from threading import Barrier, Thread

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from delayer.activations.switches import Switches
from delayer.observing.rows import Rows
from delayer.observing.stats import Geometry, Hsic, Moments
from delayer.observing.stats.hsic import hsic_of

NUM, WIDTH = 53, 6


def features() -> dict[int, Tensor]:
    """Rows [53, 6] of four points, with means that are large beside what changes."""
    draw = torch.Generator().manual_seed(0)
    x = {p: torch.randn(NUM, WIDTH, generator=draw, dtype=torch.float64) + 20 for p in range(4)}
    x[2] = 0.9 * x[1] + 0.1 * x[2]
    return x


def literal_moments(x: dict[int, Tensor]) -> dict[str, Tensor]:
    found = {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b = x[i] - x[i].mean(0), x[j] - x[j].mean(0)
        for name, (u, v) in {"xx": (a, a), "xy": (a, b), "yy": (b, b)}.items():
            found[f"{name} {i} {j}"] = torch.stack([torch.outer(u[n], v[n]) for n in range(NUM)]).sum(0)
        found[f"means {i} {j}"] = torch.cat([x[i].mean(0), x[j].mean(0)])
    return found


def read_moments(stat: Moments) -> dict[str, Tensor]:
    found = {}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pair = stat.pair(i, j)
        found |= {
            f"xx {i} {j}": pair.xx,
            f"xy {i} {j}": pair.xy,
            f"yy {i} {j}": pair.yy,
            f"means {i} {j}": torch.cat([pair.mean_x, pair.mean_y]),
        }
    return found


def literal_unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """[tr KL + (1ᵀK1)(1ᵀL1)/((n−1)(n−2)) − 2/(n−2)·1ᵀKL1] / (n(n−3)), as in Song et al., JMLR 2012."""
    n, one = len(x), torch.ones(len(x), dtype=x.dtype)
    k, m = x @ x.T, y @ y.T
    k, m = k - torch.diag(torch.diag(k)), m - torch.diag(torch.diag(m))
    return (torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one) / (
        n * (n - 3)
    )


def literal_hsic(x: dict[int, Tensor]) -> dict[str, Tensor]:
    chunks = [slice(k, k + 16) for k in range(0, NUM, 16)]
    return {
        "sizes": torch.tensor([16.0, 16, 16, 5], dtype=torch.float64),
        "hsic": torch.stack(
            [
                torch.stack([torch.stack([literal_unbiased_hsic(x[i][c], x[j][c]) for j in range(4)]) for i in range(4)])
                for c in chunks
            ]
        ),
    }


def literal_geometry(x: dict[int, Tensor]) -> dict[str, Tensor]:
    shape = (3, 3)
    found = {name: torch.zeros(shape, dtype=torch.float64) for name in ("distance", "cosine", "angle")}
    for i in range(3):
        for j in range(3):
            for a, b in zip(x[i], x[j], strict=True):
                cosine = (a @ b / (a.norm() * b.norm())).clamp(-1, 1)
                found["distance"][i, j] += (a - b).square().sum() / NUM
                found["cosine"][i, j] += cosine / NUM
                found["angle"][i, j] += torch.arccos(cosine) / torch.pi / NUM
    found["angle"].fill_diagonal_(0)
    return found | {"norm": torch.stack([x[i].square().sum(1).mean() for i in range(3)])}


def read_geometry(stat: Geometry) -> dict[str, Tensor]:
    assert stat.squared_distance[0, 3].isnan() and stat.squared_norm[3].isnan()
    return {
        "distance": stat.squared_distance[:3, :3],
        "cosine": stat.cosine[:3, :3],
        "angle": (stat.angle[:3, :3]).fill_diagonal_(0),
        "norm": stat.squared_norm[:3],
    }


@dataclass(frozen=True)
class Case:
    make: Callable
    read: Callable
    literal: Callable
    rtol: float = 1e-10


class SiteSwitches(Switches):
    """The statistics of one activation, fed as those of points are; points 0 and 1 are its channels."""

    def update(self, rows, ids):
        z = torch.cat([rows[0] - 20, rows[1] - 20], 1)
        super().update(z, torch.relu(z), ids)


def read_switches(stat: Switches) -> dict[str, Tensor]:
    normal, (scale, shift, residual, variance) = stat.normal(), stat.best_line()
    return {
        "chunks": stat.counts_by_chunk().double(),
        "counts": stat.counts().double(),
        "mean": normal.mean,
        "deviation": normal.deviation,
        "scale": scale,
        "shift": shift,
        "residual": residual,
        "variance": variance,
    }


def literal_switches(x: dict[int, Tensor]) -> dict[str, Tensor]:
    z = torch.cat([x[0] - 20, x[1] - 20], 1)
    y = z.clamp_min(0)
    chunks = torch.stack(
        [torch.stack([(c < 0).sum(0), (c == 0).sum(0), (c > 0).sum(0), *torch.zeros(2, 2 * WIDTH)]) for c in z.split(16)]
    ).double()
    found = {"chunks": chunks, "counts": chunks.sum(0), "mean": z.mean(0), "deviation": z.std(0, correction=0)}
    lines = [torch.linalg.lstsq(torch.stack([z[:, c], torch.ones(NUM).double()], 1), y[:, c]).solution for c in range(2 * WIDTH)]
    scale, shift = torch.stack(lines, 1)
    return found | {
        "scale": scale,
        "shift": shift,
        "residual": (y - scale * z - shift).square().mean(0),
        "variance": y.var(0, correction=0),
    }


CASES = {
    "moments": Case(lambda: Moments([(0, 1, 2)], exact=True), read_moments, literal_moments),
    "moments of pairs": Case(lambda: Moments([(0, 1), (0, 2), (1, 2)], exact=True), read_moments, literal_moments),
    "moments in single precision": Case(lambda: Moments([(0, 1, 2)]), read_moments, literal_moments, 1e-5),
    "hsic": Case(
        lambda: Hsic(range(4), batch_size=16), lambda s: dict(zip(("sizes", "hsic"), s.chunks(), strict=True)), literal_hsic, 1e-8
    ),  # the twin, which centres nothing, loses digits to the means
    "switches": Case(lambda: SiteSwitches("relu", batch_size=16), read_switches, literal_switches),
    "geometry": Case(lambda: Geometry([(0, 1, 2)], Rows("first"), 4), read_geometry, literal_geometry),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def filled(case: Case, batch_size: int, samples: range = range(NUM)):
    stat, x = case.make(), features()
    for start in range(samples.start, samples.stop, batch_size):
        ids = torch.arange(start, min(start + batch_size, samples.stop))
        stat.update({p: rows[ids] for p, rows in x.items()}, ids)
    return stat


def assert_same(case: Case, one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        atol = case.rtol * float(two[name].abs().max())
        torch.testing.assert_close(value, two[name], rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def test_equals_its_literal_twin(case):
    assert_same(case, case.read(filled(case, NUM)), case.literal(features()))


@pytest.mark.parametrize("batch_size", [1, 7, 16])
def test_any_batch_split_gives_the_same(case, batch_size):
    stat = filled(case, batch_size)
    assert stat.num_rows == NUM
    assert_same(case, case.read(stat), case.read(filled(case, NUM)))


@pytest.mark.parametrize("cut", [0, 1, 20, 32, NUM])
def test_merge_equals_concatenation(case, cut):
    stat, rest = filled(case, 8, range(cut)), filled(case, 8, range(cut, NUM))
    stat.merge(rest)
    assert stat.num_rows == NUM
    assert_same(case, case.read(stat), case.read(filled(case, NUM)))


@pytest.mark.parametrize("cuts", [(0, 20, NUM), (0, 0, NUM), (0, 17, 17, 40, NUM)])
def test_pooling_gives_every_process_what_one_would_have_seen(case, cuts):
    """Threads stand for processes; some have seen nothing."""
    stats = [filled(case, 8, range(a, b)) for a, b in itertools.pairwise(cuts)]
    barrier, shared = Barrier(len(stats)), [None] * len(stats)

    def process(rank):
        def gather(value):
            shared[rank] = value
            barrier.wait()
            found = list(shared)
            barrier.wait()
            return found

        def add_(tensor):
            tensor.copy_(torch.stack(gather(tensor.clone())).sum(0))

        stats[rank].pool(add_, gather)

    threads = [Thread(target=process, args=(rank,)) for rank in range(len(stats))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stat in stats:
        assert stat.num_rows == NUM
        assert_same(case, case.read(stat), case.read(filled(case, NUM)))


def test_survives_saving_and_goes_on_afterwards(case, tmp_path):
    stat = filled(case, 8, range(24))
    save_file(stat.state(), tmp_path / "stat.safetensors")
    copy = case.make()
    copy.load(load_file(tmp_path / "stat.safetensors"))
    copy.merge(filled(case, 8, range(24, NUM)))
    assert_same(case, case.read(copy), case.read(filled(case, NUM)))
    before = stat.num_rows
    twin = case.make()
    twin.load(stat.state())
    twin.merge(filled(case, 8, range(24, NUM)))
    assert stat.num_rows == before
    stat.merge(filled(case, 8, range(24, NUM)))
    assert_same(case, case.read(stat), case.read(filled(case, NUM)))


def test_leaves_the_rows_that_it_is_given(case):
    x = features()
    stat = case.make()
    stat.update(x, torch.arange(NUM))
    case.read(stat)
    assert all(torch.equal(x[p], rows) for p, rows in features().items())


def test_means_a_thousand_times_what_changes_cost_single_precision_no_digits():
    draw = torch.Generator().manual_seed(1)
    x = {p: (torch.randn(2000, 8, generator=draw) + 1000 * torch.randn(8, generator=draw)) for p in range(2)}
    stat = Moments([(0, 1)])
    for start in range(0, 2000, 50):
        stat.update({p: rows[start : start + 50] for p, rows in x.items()}, torch.arange(50))
    x = {p: rows.double() - rows.double().mean(0) for p, rows in x.items()}
    torch.testing.assert_close(stat.pair(0, 1).xy, x[0].T @ x[1], rtol=0, atol=1e-6 * 2000)


def test_moments_say_what_they_need_and_what_they_lack():
    stat, x = Moments([(0, 1, 2), (2, 3)]), features()
    stat.update(x, torch.arange(NUM))
    held = sum(t.numel() for name, t in stat.state().items() if name.startswith("products")) * 8
    assert Moments.size_bytes(stat.groups, dict.fromkeys(range(4), WIDTH)) == held == 8 * WIDTH**2 * (6 + 3)
    with pytest.raises(KeyError, match="Points 1 and 3 were not watched together"):
        stat.pair(1, 3)
    with pytest.raises(KeyError):
        Moments([(0, 1)]).pair(0, 1)


def test_few_rows_wait_and_are_still_seen():
    stat, x = Moments([(0, 1)], exact=True), features()
    for n in range(3):
        stat.update({p: rows[n : n + 1] for p, rows in x.items()}, torch.tensor([n]))
    torch.testing.assert_close(stat.pair(0, 1).mean_x, x[0][:3].mean(0))
    stat.update({p: rows[3:] for p, rows in x.items()}, torch.arange(3, NUM))
    assert_same(CASES["moments"], {"xy": stat.pair(0, 1).xy}, {"xy": literal_moments(x)["xy 0 1"]})


def test_hsic_does_not_mind_the_order_of_samples():
    case, x = CASES["hsic"], features()
    stat, order = case.make(), torch.randperm(NUM, generator=torch.Generator().manual_seed(0))
    for ids in order.split(9):
        stat.update({p: rows[ids] for p, rows in x.items()}, ids)
    assert_same(case, case.read(stat), case.read(filled(case, NUM)))


def test_hsic_leaves_out_a_rest_that_is_too_small():
    case = CASES["hsic"]
    assert case.read(filled(case, 8, range(35)))["sizes"].tolist() == [16, 16]
    sizes, hsic = filled(case, 8, range(3)).chunks()
    assert len(sizes) == 0 and hsic.shape == (0, 4, 4)


def test_hsic_of_constant_features_is_exactly_zero():
    x = torch.randn(9, 5)
    found = hsic_of([x, torch.full((9, 3), 0.1), x + 7])
    assert (found[1] == 0).all() and (found[:, 1] == 0).all()
    torch.testing.assert_close(found[0, 0], found[2, 2], rtol=1e-5, atol=0)


def test_hsic_needs_one_row_a_sample_and_four_samples():
    with pytest.raises(ValueError, match="use rows mean, first or last"):
        Hsic(range(2), Rows("each"))
    with pytest.raises(ValueError, match="at least 4 samples, not 3"):
        Hsic(range(2), batch_size=3)


def test_zero_rows_are_parallel_to_each_other_and_square_to_the_rest():
    stat = Geometry([(0, 1, 2)], Rows("first"), 3)
    stat.update({0: torch.zeros(2, 4), 1: torch.zeros(2, 4), 2: torch.ones(2, 4)}, torch.arange(2))
    assert stat.cosine.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert stat.angle[0, 2] == 0.5 and stat.squared_distance[0, 2] == 4


def test_a_block_that_changes_next_to_nothing_is_measured_to_the_last_digit():
    x = torch.randn(30, 64, dtype=torch.float64) * 100
    step = 1e-7 * torch.randn(30, 64, dtype=torch.float64)
    stat = Geometry([(0, 1, 2)], Rows("first"), 3)
    stat.update({0: x, 1: x.clone(), 2: x + step}, torch.arange(30))
    assert stat.squared_distance[0, 1] == 0
    actual = ((x + step) - x).square().sum(1).mean()
    torch.testing.assert_close(stat.squared_distance[0, 2], actual, rtol=1e-12, atol=0)
