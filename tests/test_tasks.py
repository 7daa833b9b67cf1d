"""Splits, grades and batches from Python: laws and slow literal twins."""

import math
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from delayer.errors import DataError, NotFiniteError
from delayer.tasks import Batch, TaskOptions, evaluate, gathering, grade_of, open_task, predictions, task_of
from delayer.tasks.kinds import kind_of
from delayer.tasks.splits import NUM_READERS, Split, split_rows, split_sizes

PARTS = ("fit", "validation", "test")


def image_net(num_classes: int = 4, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(6 * 16, num_classes))
    return net.eval()


def image_task(num: int = 60, num_classes: int = 4, labels: bool = True, **arguments):
    torch.manual_seed(1)
    x, y = torch.randn(num, 3, 6, 6), torch.randint(num_classes, (num,))
    data = TensorDataset(x, y) if labels else TensorDataset(x)
    return task_of(*(DataLoader(data, batch_size=7) for _ in PARTS), **arguments)


def shaken(net: nn.Module, amount: float) -> nn.Module:
    torch.manual_seed(5)
    twin = type(net)(net.config) if hasattr(net, "config") else image_net(net[-1].out_features)
    twin.load_state_dict({k: v + amount * torch.randn_like(v) for k, v in net.state_dict().items()})
    return twin.eval()


def llama(vocab: int = 30) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.6,
        )
    ).eval()


def padded_texts(num: int = 12, vocab: int = 30, pad: int = 1) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, 11, (num,), generator=generator).tolist()
    texts = [torch.randint(vocab, (length,), generator=generator) for length in lengths]
    batches = []
    for k in range(0, num, 5):
        some = texts[k : k + 5]
        ids = nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=pad)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in some], batch_first=True)
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


# -- which samples go where


@pytest.mark.parametrize("num", [3, 4, 5, 7, 20, 97, 1000, 1749, 1750, 5000])
@pytest.mark.parametrize("caps", [(500, 250, 1000), (1, 1, 1), (10**6,) * 3, (3000, 10, 100)])
def test_sizes_use_what_there_is_up_to_what_is_wanted(num, caps):
    options = TaskOptions(num_fit=caps[0], num_validation=caps[1], num_test=caps[2])
    sizes = split_sizes(num, options, PARTS)
    assert list(sizes) == list(PARTS)
    assert sum(sizes.values()) == min(num, sum(caps))
    assert all(1 <= size <= cap for size, cap in zip(sizes.values(), caps, strict=True))
    if min(caps) == 10**6:
        assert all(abs(size - num * share) < 1 for size, share in zip(sizes.values(), (0.5, 0.25, 0.25), strict=True))


def test_too_few_samples_for_three_parts():
    with pytest.raises(DataError, match="3 disjoint parts .* need at least 3 samples; found 2"):
        split_sizes(2, TaskOptions(), PARTS)


@pytest.mark.parametrize("num", [3, 4, 10, 61, 300])
@pytest.mark.parametrize("num_classes", [0, 1, 3, 50])
@pytest.mark.parametrize("seed", range(5))
def test_parts_are_disjoint_and_decided_by_the_seed(num, num_classes, seed):
    labels = torch.arange(num) % num_classes if num_classes else None
    sizes = split_sizes(num, TaskOptions(num_fit=100, num_validation=40, num_test=50), PARTS)
    rows = split_rows(num, labels, sizes, seed)
    assert {part: len(some) for part, some in rows.items()} == sizes
    together = [row for some in rows.values() for row in some]
    assert len(set(together)) == len(together) and set(together) <= set(range(num))
    assert rows == split_rows(num, labels, sizes, seed)
    if num > 10:
        assert rows != split_rows(num, labels, sizes, seed + 1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("counts", [(3, 3, 3), (3, 40, 7), (100, 10, 30, 5), (9,) * 30])
def test_stratified_parts_hold_each_class_by_its_share(counts, seed):
    labels = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)])  # sorted by class
    sizes = split_sizes(len(labels), TaskOptions(num_fit=60, num_validation=30, num_test=30), PARTS)
    left = torch.tensor(counts)
    for part, rows in split_rows(len(labels), labels, sizes, seed).items():
        got = labels[rows].bincount(minlength=len(counts))
        exact = sizes[part] * left.double() / left.sum()
        assert (got - exact).abs().max() < 1, part
        left = left - got


def test_parts_of_data_sorted_by_class_come_shuffled():
    labels = torch.arange(400) // 100
    rows = split_rows(400, labels, split_sizes(400, TaskOptions(), PARTS), 0)
    for some in rows.values():
        same = (labels[some[1:]] == labels[some[:-1]]).double().mean()
        assert same < 0.45  # a quarter, if shuffled; nearly all, if not


def test_a_class_with_too_few_samples_leads_to_a_plain_shuffle():
    labels = torch.tensor([0] * 97 + [1, 1, 2])
    sizes = {"fit": 50, "validation": 25, "test": 25}
    assert split_rows(100, labels, sizes, 3) == split_rows(100, None, sizes, 3)


# -- grades


def test_accuracy_equals_the_literal_one_and_agreement_with_itself_is_whole():
    net, task = image_net(), image_task()
    hits = [int(net(x[None]).argmax()) == int(y) for x, y in task.batches("test").batches.dataset]
    grade = evaluate(net, task, "test", reference=predictions(net, task.batches("test")))
    assert (grade.name, grade.unit, grade.higher_is_better) == ("top-1 accuracy", "%", True)
    assert grade.value == pytest.approx(100 * sum(hits) / len(hits))
    assert grade.kl == 0 and grade.agreement == 100
    assert (grade.split, grade.num_samples) == ("test", 60)
    assert grade.interval[0] <= grade.value <= grade.interval[1]


def test_divergence_and_agreement_of_another_network_equal_the_literal_ones():
    net, task = image_net(), image_task()
    other = shaken(net, 0.1)
    x = torch.cat([batch.inputs for batch in task.batches("fit")])
    with torch.no_grad():
        p, q = net(x).double().softmax(1), other(x).double().softmax(1)
    grade = evaluate(other, task, "fit", reference=predictions(net, task.batches("fit")))
    assert grade.kl == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-4) and grade.kl > 0
    assert grade.agreement == pytest.approx(100 * (p.argmax(1) == q.argmax(1)).double().mean().item())


def test_without_labels_the_grade_is_agreement_with_the_original():
    net, task = image_net(), image_task(labels=False)
    assert not task.has_labels
    reference = predictions(net, task.batches("validation"))
    grade = evaluate(net, task, reference=reference)
    assert (grade.name, grade.value, grade.kl) == ("agreement", 100, 0)
    assert evaluate(shaken(net, 0.5), task, reference=reference).value < 100
    with pytest.raises(DataError, match="no labels.*Pass reference=predictions"):
        evaluate(net, task)


def test_one_logit_is_read_as_two_classes():
    net = nn.Sequential(nn.Flatten(1), nn.Linear(4, 1))
    x = torch.randn(20, 4)
    y = (net(x)[:, 0] > 0).long()
    assert evaluate(net, task_of([(x, y)]), "fit").value == 100


def test_perplexity_equals_the_literal_one_text_by_text_whatever_the_padding():
    model, batches = llama(), padded_texts()
    nats, num, sums = 0.0, 0, []
    for batch in batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            ids = ids[mask.bool()][None]
            with torch.no_grad():
                log_probs = model(ids).logits.log_softmax(-1)[0]
            losses = [-log_probs[t, ids[0, t + 1]].item() for t in range(ids.shape[1] - 1)]
            nats, num = nats + sum(losses), num + len(losses)
            sums.append(log_probs[:-1])
    task = task_of(batches)
    assert task.kind == "causal-lm"
    grade = evaluate(model, task, "fit")
    assert (grade.name, grade.higher_is_better) == ("perplexity", False)
    assert grade.value == pytest.approx(math.exp(nats / num), rel=1e-4)
    reference = predictions(model, task.batches("fit"))
    assert grade_of(reference, reference).kl == 0
    other = shaken(model, 0.1)
    with torch.no_grad():
        q = [
            other(b["input_ids"][i][b["attention_mask"][i].bool()][None]).logits[0, :-1].log_softmax(-1)
            for b in batches
            for i in range(len(b["input_ids"]))
        ]
    p, q = torch.cat(sums).double(), torch.cat(q).double()
    against = evaluate(other, task, "fit", reference=reference)
    assert against.kl == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-3)
    assert against.agreement == pytest.approx(100 * (p.argmax(1) == q.argmax(1)).double().mean().item())


def test_padding_on_the_left_counts_as_little():
    model, batches = llama(), padded_texts()
    left = []
    for batch in batches:
        shift = [int((1 - m).sum()) for m in batch["attention_mask"]]
        left.append({k: torch.stack([row.roll(s) for row, s in zip(x, shift, strict=True)]) for k, x in batch.items()})
        mask = left[-1]["attention_mask"]
        left[-1]["position_ids"] = (mask.cumsum(1) - 1).clamp_min(0)
    assert evaluate(model, task_of(left), "fit").value == pytest.approx(evaluate(model, task_of(batches), "fit").value, rel=1e-4)


def test_kept_distributions_stay_within_memory_and_do_not_depend_on_batches(monkeypatch):
    model, batches = llama(), padded_texts(40)
    everything = predictions(model, task_of(batches).batches("fit"))
    assert len(everything.kept) == len(everything.sample)
    monkeypatch.setattr(gathering, "KEPT_BYTES", 4 * 30 * 25)  # 25 rows of 30 tokens
    few = predictions(model, task_of(batches).batches("fit"))
    one = [{k: x[i : i + 1] for k, x in batch.items()} for batch in batches for i in range(len(batch["input_ids"]))]
    single = predictions(model, task_of(one).batches("fit"))
    assert len(few.kept) == 25 and few.kept.tolist() == sorted(few.kept.tolist())
    assert torch.equal(few.kept, single.kept)
    torch.testing.assert_close(few.values, everything.values[few.kept])
    assert torch.equal(few.nll, everything.nll)
    # The first samples alone keep all of theirs that were kept among more.
    first = predictions(model, task_of(batches).batches("fit").first(11))
    among = few.kept[few.sample[few.kept] < 11]
    assert set(among.tolist()) <= set(first.kept.tolist())
    assert grade_of(first, few).kl < 1e-6 and grade_of(first, few).agreement == 100


def test_limit_grades_the_first_samples_only():
    net, task = image_net(), image_task()
    reference = predictions(net, task.batches("validation"))
    few = evaluate(shaken(net, 0.2), task, reference=reference, limit=17)
    assert few.num_samples == 17
    x, y = (torch.cat(parts)[:17] for parts in zip(*[(b.inputs, b.labels) for b in task.batches("fit")], strict=True))
    alone = task_of([(x, y)], [(x, y)])
    same = evaluate(shaken(net, 0.2), alone, reference=predictions(net, alone.batches("validation")))
    assert few.kl == pytest.approx(same.kl, rel=1e-4)
    assert (few.value, few.agreement) == (same.value, same.agreement)


def test_a_reference_from_other_data_is_refused():
    net, task = image_net(), image_task()
    reference = predictions(net, task.batches("validation").first(10))
    with pytest.raises(DataError, match="10 validation samples.*60 validation samples.*same split"):
        evaluate(net, task, reference=reference)
    with pytest.raises(DataError, match="test samples"):
        evaluate(net, task, "test", reference=predictions(net, task.batches("fit")))


class Tokens(nn.Module):
    """An encoder: embeddings of tokens, NaN where they are padding."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(30, 8)

    def forward(self, input_ids, attention_mask):
        hidden = self.table(input_ids).masked_fill(~attention_mask.bool()[..., None], float("nan"))
        return SimpleNamespace(last_hidden_state=hidden)


def test_embeddings_are_graded_by_their_cosine_and_by_which_pairs_are_alike():
    net, other, batches = Tokens(), Tokens(), padded_texts(30)
    other.table.weight.data += 0.3 * torch.randn(30, 8)
    task = task_of(batches, model=net)
    assert task.kind == "embedding" and not task.has_labels
    reference = predictions(net, task.batches("fit"))
    itself = grade_of(reference, reference)
    assert (itself.name, itself.kl, itself.agreement) == ("cosine to the original", 0, None)
    assert itself.value == pytest.approx(100) and itself.pair_correlation == pytest.approx(1)

    def literal(model):
        pooled = [
            model.table.weight[ids[mask.bool()]].mean(0)
            for batch in batches
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        return nn.functional.normalize(torch.stack(pooled).double(), dim=1)

    kls = []
    with torch.no_grad():
        a, b = literal(net), literal(other)
    for i in range(30):
        rest = [j for j in range(30) if j != i]
        p, q = ((z[rest] @ z[i] / 0.05).softmax(0) for z in (a, b))
        kls.append((p * (p / q).log()).sum().item())
    grade = evaluate(other, task, "fit", reference=reference)
    assert 0 < grade.value < 100 and grade.value == pytest.approx(100 * (a * b).sum(1).mean().item(), rel=1e-5)
    assert grade.kl == pytest.approx(sum(kls) / 30, rel=1e-4) and grade.cosine == pytest.approx(grade.value / 100)
    stats = pytest.importorskip("scipy.stats")
    pairs = [(i, j) for i in range(30) for j in range(i)]
    expected = stats.spearmanr(*([round((z[i] @ z[j]).item(), 6) for i, j in pairs] for z in (a, b))).statistic
    assert grade.pair_correlation == pytest.approx(expected, abs=1e-3) and grade.interval[0] < grade.value < grade.interval[1]
    with pytest.raises(DataError, match="graded by the cosine of their embeddings to those of the original"):
        evaluate(other, task, "fit")


def test_pairs_do_not_mind_rotation_and_need_three_samples():
    net, turned, batches = Tokens(), Tokens(), padded_texts(30)
    turned.table.weight.data = 3 * net.table.weight.data @ torch.linalg.qr(torch.randn(8, 8))[0]
    task = task_of(batches, kind="embedding")
    reference = predictions(net, task.batches("fit"))
    grade = evaluate(turned, task, "fit", reference=reference)
    assert grade.value < 90 and grade.pair_correlation == pytest.approx(1, abs=1e-3) and grade.kl == pytest.approx(0, abs=1e-8)
    with pytest.raises(DataError, match="3 samples or more; found 2"):
        evaluate(net, task, "fit", reference=reference, limit=2)


def test_feature_maps_are_embeddings_where_that_is_said():
    net = nn.Sequential(nn.Conv2d(3, 5, 3))
    assert kind_of(net, torch.zeros(1, 3, 6, 6))[:2] == ("regression", 5)
    task = image_task(labels=False, kind="embedding")
    reference = predictions(net, task.batches("fit"))
    torch.testing.assert_close(reference.values[:7], net(next(iter(task.batches("fit"))).inputs).mean((2, 3)).detach())


def test_kind_is_found_by_the_answer():
    import timm
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

    image, text = torch.zeros(1, 3, 32, 32), {"input_ids": torch.ones(1, 5, dtype=torch.long)}
    assert kind_of(timm.create_model("resnet10t", num_classes=7), image) == ("image-classification", 7, ())
    assert kind_of(timm.create_model("resnet10t", num_classes=0), image)[0] == "embedding"
    assert kind_of(llama(), text) == ("causal-lm", 30, ())
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    assert kind_of(BertForSequenceClassification(config), text) == ("text-classification", 3, ())
    assert kind_of(BertModel(config), text)[0] == "embedding"
    assert kind_of(BertForMaskedLM(config), text)[0] == "embedding"
    with pytest.raises(DataError, match=r"cannot read the data, a tensor \[1, 3, 32, 32\]: .*set --size"):
        kind_of(image_net(), image)


def test_labels_that_are_not_the_heads_are_doubted():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(1), nn.Linear(12, 10)), torch.randn(200, 12)
    truth = net(x).argmax(1)
    assert not predictions(net, task_of([(x, truth)]).batches("fit")).notes
    (note,) = predictions(net, task_of([(x, (truth + 1) % 10)]).batches("fit")).notes
    assert "may not be the head's classes" in note and "--classes" in note


def test_interval_is_seeded_and_narrows_with_more_samples():
    net = image_net()
    small, large = image_task(30), image_task(3000)
    few, many = (evaluate(net, task, "fit").interval for task in (small, large))
    assert few == evaluate(net, small, "fit").interval != evaluate(net, small, "fit", seed=1).interval
    assert many[1] - many[0] < (few[1] - few[0]) / 4
    share = evaluate(net, large, "fit").value / 100
    width = 2 * 1.96 * 100 * math.sqrt(share * (1 - share) / 3000)  # the normal approximation of a share
    assert many[1] - many[0] == pytest.approx(width, rel=0.15)
    assert evaluate(net, small, "fit", limit=1).interval is None


def test_infinity_is_reported_with_its_place():
    net, task = image_net(), image_task()
    net[0].bias.data[0] = float("inf")
    with pytest.raises(NotFiniteError, match="network's output on batch 0 of the test split, samples 0 to 6"):
        evaluate(net, task, "test")
    x = torch.randn(4, 3, 6, 6)
    bad = x.clone()
    bad[2, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="data in batch 1 of the fit split, samples 4 to 7"):
        evaluate(image_net(), task_of([x, bad]), "fit", reference=None)


def test_a_model_is_left_as_it_was():
    net, task, seen = image_net(), image_task(), []
    net.train()
    net[3].eval()
    evaluate(net, task, "fit", progress=lambda done, total: seen.append((done, total)))
    assert net.training and net[0].training and not net[3].training
    assert seen == [(k, 9) for k in range(1, 10)]


def test_perplexity_of_a_destroyed_model_stays_a_number():
    class Sure(nn.Module):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(logits=1e5 * nn.functional.one_hot((input_ids + 1) % 30, 30).float())

    grade = evaluate(Sure(), task_of(padded_texts()), "fit")
    assert math.isfinite(grade.value) and grade.model_validate_json(grade.model_dump_json()) == grade


# -- batches from Python


def test_a_loader_in_the_order_of_an_opened_task_gives_the_same_grades(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(80, 3, 6, 6)).astype("float32"), y=rng.integers(0, 4, 80))
    net = image_net()
    opened = open_task(f"npz:{tmp_path / 'a.npz'}", net, TaskOptions(batch_size=9))
    loaders = []
    for part in PARTS:
        batches = list(opened.batches(part))
        data = TensorDataset(torch.cat([b.inputs for b in batches]), torch.cat([b.labels for b in batches]))
        loaders.append(DataLoader(data, batch_size=9))
    given = task_of(*loaders, model=net)
    assert (given.kind, given.has_labels) == (opened.kind, opened.has_labels) == ("image-classification", True)
    for part in PARTS:
        reference = predictions(net, opened.batches(part))
        assert evaluate(net, given, part, reference=reference) == evaluate(net, opened, part, reference=reference)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) and a.start == b.start


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shuffling_loader_gives_the_same_batches_in_each_pass(num_workers):
    data = TensorDataset(torch.arange(20.0)[:, None], torch.arange(20))
    before = torch.get_rng_state()
    split = task_of(DataLoader(data, batch_size=6, shuffle=True, num_workers=num_workers)).batches("fit")
    first, second = list(split), list(split)
    assert all(map(same, first, second)) and all(same(split[i], first[i]) for i in range(len(split)))
    assert all(map(same, split.read([2, 0]), [first[2], first[0]]))
    assert torch.equal(torch.get_rng_state(), before)
    everything = torch.cat([batch.labels for batch in first])
    assert everything.tolist() != list(range(20)) and sorted(everything.tolist()) == list(range(20))
    assert (len(split), split.num_samples, [b.start for b in first]) == (4, 20, [0, 6, 12, 18])
    few = split.first(8)
    assert (len(few), few.num_samples) == (2, 8)
    assert torch.equal(torch.cat([b.labels for b in few]), everything[:8]) and len(few[1]) == 2


def test_other_iterables_are_read_from_the_start():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.arange(10.0)[:, None])

    split = task_of(DataLoader(Stream(), batch_size=4)).batches("fit")
    assert (len(split), split.num_samples) == (3, 10)
    assert split[2].inputs.tolist() == [[8.0], [9.0]] and split[2].start == 8
    with pytest.raises(IndexError):
        split[3]


def test_batches_of_dicts_and_of_numpy_arrays():
    import numpy as np

    ids = torch.ones(2, 3, dtype=torch.long)
    task = task_of([{"input_ids": ids, "labels": torch.tensor([0, 1])}])
    assert (task.kind, task.has_labels) == ("text-classification", True)
    assert task.batches("fit")[0].mask is None and set(task.batches("fit")[0].inputs) == {"input_ids"}
    task = task_of([{"input_ids": ids, "attention_mask": ids, "labels": ids}])
    assert (task.kind, task.has_labels) == ("causal-lm", False)
    assert torch.equal(task.batches("fit")[0].mask, ids)
    assert task_of([(np.zeros((2, 4), "float32"), np.array([1, 0]))]).batches("fit")[0].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ((x for x in [torch.zeros(1)]), "generator, which can be read only once.*DataLoader"),
        ([], "fit batches are empty"),
        ([torch.zeros(0, 4)], "fit batches are empty"),
        ([{"text": ["a", "b"]}], "does not become tensors"),
        ([(torch.zeros(2, 3), torch.zeros(2, 5))], r"rows of zeros and ones.*multi-label.*found torch.float32 \[2, 5\]"),
        (
            [(torch.zeros(2, 3), torch.zeros(2, 5, dtype=torch.long) + 2)],
            r"one class number a sample; found torch.int64 \[2, 5\]",
        ),
        ([(torch.zeros(2, 3), torch.tensor(1))], r"one a sample; found torch.int64 \[\]"),
        ([(torch.zeros(2, 3), torch.tensor([1.0, float("nan")]))], "A label of the fit split is NaN"),
    ],
)
def test_batches_that_cannot_be_used(fit, message):
    with pytest.raises(DataError, match=message):
        task_of(fit)


def test_labels_of_batches_out_of_range():
    with pytest.raises(DataError, match="Labels of the fit split run from 0 to 4, .* from 0 to 3"):
        evaluate(image_net(), task_of([(torch.zeros(2, 3, 6, 6), torch.tensor([0, 4]))]), "fit")


def test_a_kind_that_does_not_fit_the_answer():
    with pytest.raises(DataError, match=r"task is causal-lm, .* answers with \[5, 4\]"):
        evaluate(image_net(), task_of([torch.zeros(5, 3, 6, 6)], kind="causal-lm"), "fit")
    with pytest.raises(DataError, match="task is causal-lm, but its inputs hold no token numbers. Name the kind"):
        evaluate(nn.Conv1d(3, 4, 1), task_of([torch.zeros(5, 3, 6)], kind="causal-lm"), "fit")


def test_the_hash_follows_the_data():
    x = torch.randn(4, 3)
    assert task_of([x]).hash == task_of([x.clone()]).hash != task_of([x + 1]).hash


def test_a_split_that_is_not_there():
    with pytest.raises(DataError, match="no test split; found fit"):
        task_of([torch.zeros(1, 2)]).batches("test")


def test_importing_tasks_stays_light():
    heavy = "transformers timm datasets sklearn PIL pandas pyarrow plotly onnxruntime typer".split()
    code = f"import sys, delayer.tasks; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_passes_share_their_threads_and_one_that_ends_early_leaves_the_others_alone():
    split = Split("fit", "embedding", 14, 2, lambda rows: (torch.tensor([[float(row)] for row in rows]), None))
    starts = list(range(0, 14, 2))
    for _ in range(10):
        next(iter(split))
    passes = [iter(split) for _ in range(5)]
    first = [next(one).start for one in passes]
    passes[0].close()
    assert first == [0] * 5 and all([batch.start for batch in one] == starts[1:] for one in passes[1:])
    assert sum(thread.name.startswith("delayer-reader") for thread in threading.enumerate()) <= NUM_READERS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_forked_process_reads_with_threads_of_its_own():
    split = Split("fit", "embedding", 14, 2, lambda rows: (torch.tensor([[float(row)] for row in rows]), None))
    assert len(list(split)) == 7
    if not (child := os.fork()):
        os._exit(0 if len(list(split)) == 7 else 1)
    assert os.waitpid(child, 0)[1] == 0
