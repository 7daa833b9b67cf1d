"""Laws of measuring: counts equal hand arithmetic, memory follows tensors, planted work shows in the time."""

import random
from itertools import count, cycle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from delayer.errors import DataError
from delayer.measure import compare_latency, latency, macs_by_module, num_macs, num_params, peak_memory_mib, size_bytes

MIB = 2**20


class Attention(nn.Module):
    """Grouped-query attention of 4 heads on 2, each 8 wide."""

    def forward(self, q, k):
        return F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)


def attention_inputs(num, length):
    return {"q": torch.randn(num, 4, length, 8), "k": torch.randn(num, 2, length, 8)}


def encoder_layer_macs(num, length, width, hidden):
    projections = 4 * width * width + 2 * width * hidden
    return num * length * (projections + 2 * length * width)


class Queries(nn.Module):
    """Learnt queries for every sample: a view of a parameter goes into a module."""

    def __init__(self):
        super().__init__()
        self.queries, self.layer = nn.Parameter(torch.randn(1, 3, 5)), nn.Linear(5, 7)

    def forward(self, x):
        return self.layer(self.queries.expand(len(x), -1, -1))


MACS = {
    "learnt queries": (Queries(), torch.randn(2, 4), 2 * 3 * 5 * 7),
    "linear": (nn.Linear(5, 7), torch.randn(3, 5), 3 * 5 * 7),
    "linear over positions": (nn.Linear(5, 7), torch.randn(3, 11, 5), 3 * 11 * 5 * 7),
    "convolution": (nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 9, 9), 2 * 9 * 9 * 6 * 4 * 9),
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 9, 9), 2 * 5 * 5 * 6 * 4 * 9),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 9, 9), 2 * 7 * 7 * 6 * 2 * 9),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), torch.randn(2, 4, 9, 9), 2 * 7 * 7 * 4 * 9),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), torch.randn(2, 4, 9, 9), 2 * 9 * 9 * 4 * 6 * 4),
    "attention": (Attention(), attention_inputs(2, 7), 2 * (2 * 4 * 7 * 7 * 8)),
    # In evaluation these two run as one fused kernel, which torch's counter takes for nothing.
    "encoder layer": (
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        torch.randn(2, 5, 16),
        encoder_layer_macs(2, 5, 16, 32),
    ),
    "norm and activation": (nn.Sequential(nn.BatchNorm1d(5), nn.ReLU()), torch.randn(3, 5), 0),
}


@pytest.mark.parametrize("name", MACS)
def test_macs_equal_hand_arithmetic(name):
    model, inputs, expected = MACS[name]
    assert num_macs(model, inputs) == expected
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training and torch.backends.mha.get_fastpath_enabled()


def test_macs_of_modules_add_up():
    model = nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.ReLU(), nn.Linear(7, 2)))
    x = torch.randn(3, 5)
    macs = macs_by_module(model, x)
    assert macs["0"] == 3 * 35 and macs["1"] == macs["1.1"] == 3 * 14
    assert macs["0"] + macs["1"] == num_macs(model, x)


def test_counting_leaves_running_statistics_alone():
    model = nn.BatchNorm1d(5)
    num_macs(model, torch.randn(64, 5) + 3)
    peak_memory_mib(model, torch.randn(64, 5) + 3)
    assert model.running_mean.equal(torch.zeros(5)) and model.num_batches_tracked == 0


def test_shared_parameters_count_once():
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.BatchNorm1d(5), shared)
    assert num_params(model) == 30 + 10
    assert size_bytes(model) == 4 * (30 + 10 + 5 + 5) + 8  # the norm's running mean, variance and step


def test_peak_memory_is_weights_inputs_and_what_lives_at_once():
    width, num, depth = 64, 32, 5
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
    # However deep, a chain holds its input and two neighbouring activations: the input is the caller's.
    activations = 4 * width * num
    expected = size_bytes(model) + activations + 2 * activations
    assert peak_memory_mib(model, torch.randn(num, width)) == expected / MIB


def test_peak_memory_sees_what_a_skip_keeps_alive():
    class Skip(nn.Module):
        def forward(self, x):
            kept = [x + i for i in range(8)]
            return torch.stack(kept).sum(0)

    x = torch.randn(1000)
    # Eight kept and their stack, and the sum: 17 vectors beside the input.
    assert peak_memory_mib(Skip(), x) == 18 * 4000 / MIB


def test_peak_memory_grows_with_batch_and_repeats():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    small, large = torch.randn(1, 3, 16, 16), torch.randn(8, 3, 16, 16)
    weights, one = size_bytes(model) / MIB, peak_memory_mib(model, small)
    assert peak_memory_mib(model, small) == one
    assert peak_memory_mib(model, large) - weights == pytest.approx(8 * (one - weights))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_on_a_gpu_counts_this_network_only():
    model, x = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)), torch.randn(1024, 512)
    alone = peak_memory_mib(model, x, "cuda")
    others = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    assert peak_memory_mib(model, x, "cuda") == alone >= peak_memory_mib(model, x)
    assert model[0].weight.device.type == "cpu" and others.is_cuda


class Clock:
    """Time that only models spend, so that what is known about it is exact on a busy machine too."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def model(self, spend):
        """A model that takes `spend()` milliseconds."""

        def run(x):
            self.seconds += spend() / 1e3
            return x

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("delayer.measure.timing.time", clock)
    return clock


def test_planted_double_work_is_twice_as_slow(clock):
    models = {"original": clock.model(lambda: 6.0), "cut": clock.model(lambda: 3.0)}
    record = latency(models, torch.zeros(5, 4), rounds=7)["cut"]
    assert record.original_ms == pytest.approx(6) and record.cut_quartiles_ms == pytest.approx((3, 3))
    assert record.speedup == pytest.approx(2) and record.speedup_interval == pytest.approx((2, 2))
    assert (record.engine, record.num_rounds, record.batch_size) == ("torch", 7, 5)
    assert (record.device, record.dtype) == ("cpu", "float32")


def test_a_drifting_clock_cancels(clock):
    drift = count(100)  # every run takes longer than the one before
    models = {"original": clock.model(lambda: 2 * next(drift)), "cut": clock.model(lambda: next(drift))}
    record = latency(models, torch.zeros(1), rounds=50)["cut"]
    assert record.original_quartiles_ms[1] / record.original_quartiles_ms[0] > 1.4
    assert record.speedup_interval == pytest.approx((2, 2), rel=1e-4)


def test_the_interval_covers_the_truth_as_often_as_it_says(clock):
    noise = random.Random(0)

    def spend():
        return noise.lognormvariate(0, 0.1) + 50 * (noise.random() < 0.03)  # and now and then a long pause

    models = {"a": clock.model(spend), "b": clock.model(spend)}
    intervals = [latency(models, torch.zeros(1), rounds=40, seed=i)["b"].speedup_interval for i in range(60)]
    assert sum(low <= 1 <= high for low, high in intervals) / 60 >= 0.88
    assert all(high - low < 0.2 for low, high in intervals)


def test_the_same_seed_gives_the_same_interval(clock):
    def interval(seed):
        times = cycle([1.0, 2.0, 4.0, 1.5, 3.0])
        models = {"a": clock.model(lambda: next(times)), "b": clock.model(lambda: next(times))}
        return latency(models, torch.zeros(1), rounds=9, seed=seed)["b"].speedup_interval

    assert interval(0) == interval(0)


def test_rounds_fill_the_seconds_within_bounds(clock):
    def num_rounds(ms, seconds):
        models = {"a": clock.model(lambda: ms), "b": clock.model(lambda: ms)}
        return latency(models, torch.zeros(1), seconds=seconds)["b"].num_rounds

    assert num_rounds(ms=10, seconds=2) == 50
    assert num_rounds(ms=9_000, seconds=2) == 5
    assert num_rounds(ms=0.001, seconds=2) == 2000


def deep(num):
    return nn.Sequential(*(nn.Linear(128, 128) for _ in range(num)))


@pytest.mark.serial
def test_double_work_is_slower_on_the_real_clock():
    threads = torch.get_num_threads()
    models = {"original": deep(24), "cut": deep(12)}
    record = latency(models, torch.randn(32, 128), rounds=100, threads=1)["cut"]
    assert record.speedup_interval[0] > 1 and record.threads == 1
    assert torch.get_num_threads() == threads and models["cut"].training


@pytest.mark.serial
def test_a_network_beside_itself_is_as_fast_on_the_real_clock():
    model = deep(12)
    record = latency({"a": model, "b": model}, torch.randn(32, 128), rounds=100, threads=1)["b"]
    low, high = record.speedup_interval
    assert low < 1.05 and high > 0.95


def test_runs_are_interleaved_and_each_model_begins_as_often():
    order = []

    def model(name):
        return lambda x: order.append(name) or x

    records = latency({name: model(name) for name in "abc"}, torch.zeros(1), rounds=2, warmup=1)
    assert "".join(order) == "abc" + "abccba" + "cbaabc"
    assert list(records) == ["b", "c"]


def test_compare_latency_fits_inputs_to_batch_sizes():
    model = nn.Linear(4, 4)
    records = compare_latency(model, model, {"input": torch.randn(3, 4)}, (1, 16), seconds=0.05)
    assert [record.batch_size for record in records] == [1, 16]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("a", {}, "found 1 in all. Pass at least two, the original first."),
        ("ab", {"rounds": 0}, "asked for 0 rounds. Ask for at least one"),
    ],
)
def test_latency_says_what_is_missing(names, options, message):
    with pytest.raises(DataError) as caught:
        latency({name: nn.Identity() for name in names}, torch.zeros(1), **options)
    assert message in str(caught.value)
