"""The main job on a decoder: blocks that go alone, the others solved anew, an ordinary checkpoint, budgets of tokens, healing."""

from copy import deepcopy

import pytest
import torch

import delayer
from delayer.cutting import Plan, apply
from delayer.edits.adopt_units import AdoptUnits
from delayer.edits.drop_span import DropSpan
from delayer.edits.resolve_block import ResolveBlock
from delayer.errors import BudgetError
from delayer.fitting.massive import usual
from delayer.search.options import PlanOptions
from delayer.search.repair import resolved
from delayer.search.repairing import settled
from delayer.search.subject import Subject
from delayer.tasks import evaluate, predictions, task_of
from delayer.tasks.splits import rebatched, shortened
from delayer.tuning import TuneOptions, tune_
from delayer.tuning.healing import healing, num_tokens_of

transformers = pytest.importorskip("transformers")


def sequences(num: int, length: int = 24, *, seed: int = 0) -> torch.Tensor:
    """Counting by ones, twos or threes, modulo 32."""
    generator = torch.Generator().manual_seed(seed)
    step, start = (torch.randint(low, high, (num, 1), generator=generator) for low, high in ((1, 4), (0, 32)))
    return (torch.arange(length) * step + start) % 32


def batches_of(ids: torch.Tensor, size: int = 16, padded: bool = False) -> list:
    mask = torch.ones_like(ids)
    if padded:
        ids, mask = (torch.nn.functional.pad(x, (0, 5), value=value) for x, value in ((ids, 7), (mask, 0)))
    pairs = zip(ids.split(size), mask.split(size), strict=True)
    return [{"input_ids": some, "attention_mask": real} for some, real in pairs]


@pytest.fixture(scope="module")
def task():
    ids = sequences(256)
    return task_of(batches_of(ids[:128]), batches_of(ids[128:192]), batches_of(ids[192:]), kind="causal-lm")


@pytest.fixture(scope="module")
def writer(task):
    """A Llama of six blocks that learnt to count."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    tune_(model, task, options=TuneOptions(epochs=12, learning_rate=1e-2))
    return model


@pytest.fixture
def chain(writer):
    return delayer.chain_of(deepcopy(writer), {"input_ids": sequences(2)})


def plan_of(*edits) -> Plan:
    return Plan(model="writer", model_hash="", num_blocks=6, edits=edits)


def grade(model, task, reference):
    return evaluate(model, task, reference=reference)


def test_by_default_blocks_go_and_the_others_are_solved_anew(chain, writer, task):
    reference = predictions(writer, task.batches("validation"))
    repaired = delayer.plan(chain, task, remove="blocks=2", effort=4)
    plain = delayer.plan(chain, task, remove="blocks=2", effort=4, repair="none", operators="drop")
    assert {DropSpan, AdoptUnits} <= {type(edit) for edit in repaired.edits} <= {DropSpan, AdoptUnits, ResolveBlock}
    assert sum(len(span) for edit in repaired.edits for span in edit.removed) == 2
    small, dropped = (delayer.apply(chain, plan, data=task.batches("fit")) for plan in (repaired, plain))
    with_repair, without = (grade(model, task, reference) for model in (small, dropped))
    assert with_repair.kl < 0.8 * without.kl
    block = sum(p.numel() for p in writer.model.layers[0].parameters())
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in writer.parameters()) - 2 * block


def test_no_set_takes_more_blocks_than_asked_for(chain, task):
    subject = Subject(name="writer", chain=chain, task=task, device=torch.device("cpu"))
    from delayer.search.choose import choose

    found = choose(subject, PlanOptions(remove="blocks=2", effort=4)).candidates
    assert found is not None and len(found.measured) > 3
    assert len({row.params for row in found.measured}) == 1  # all of them take two


def test_what_auto_repairs(chain, task):
    subject = Subject(name="writer", chain=chain, task=task, device=torch.device("cpu"))
    assert settled(subject, PlanOptions(remove="blocks=1")).repair == "best"
    assert settled(subject, PlanOptions(remove="blocks=1", repair="none")).repair == "none"
    assert settled(subject, PlanOptions(remove="blocks=1", method="shortgpt")).repair == "none"


def test_padding_changes_nothing_of_what_is_solved(chain):
    ids = sequences(64, seed=3)
    edits = resolved(chain, (DropSpan(start=2, stop=3),), task_of(batches_of(ids), kind="causal-lm").batches("fit")[0], ridge=0.1)
    plan = plan_of(*edits)
    small = [
        apply(chain, plan, data=task_of(batches_of(ids, padded=padded), kind="causal-lm").batches("fit"))
        for padded in (False, True)
    ]
    for one, two in zip(small[0].parameters(), small[1].parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize("gone", [(4, 6), (0, 2)])
def test_a_span_at_either_end_is_repaired_and_generates_with_its_cache(chain, task, gone):
    edits = (DropSpan(start=gone[0], stop=gone[1]),)
    plan = plan_of(*resolved(chain, edits, task.batches("fit")[0]))
    small = apply(chain, plan, data=task.batches("fit"))
    prompt = sequences(3, 6, seed=5)
    written = [
        small.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, use_cache=cache
        )
        for cache in (True, False)
    ]
    assert torch.equal(*written)


def test_the_result_is_an_ordinary_checkpoint_in_the_stored_precision(chain, task, tmp_path):
    plan = plan_of(*resolved(chain, (DropSpan(start=2, stop=4),), task.batches("fit")[0]))
    small = apply(chain, plan, data=task.batches("fit"))
    small.save_pretrained(tmp_path / "model")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = sequences(4, seed=9)
    assert again.config.num_hidden_layers == 4
    assert torch.equal(again(input_ids=ids).logits, small(input_ids=ids).logits)


def test_massive_activations_are_left_out_of_fits():
    state = torch.randn(2, 10, 8)
    assert usual(state) is None
    state[0, 0] *= 1000
    some = usual(state)
    assert some is not None and not some[0, 0] and some.sum() == 19


def test_padding_decides_nothing_of_what_is_usual():
    torch.manual_seed(0)
    state, mask = torch.randn(2, 12, 8), torch.ones(2, 12)
    mask[:, 4:] = 0
    state[:, 4:] = 1e-6  # most rows are padding, and next to nothing
    some = usual(state, (mask,))
    assert some is None or bool(some[mask.bool()].all())
    assert not bool(usual(state)[mask.bool()].any())  # as it would be without the mask


def test_splits_are_cut_short_by_tokens(task):
    fit = task.batches("fit")
    assert shortened(fit, 1000, 10 * 24).num_samples == 10
    assert shortened(fit, 3, 10_000).num_samples == 3
    assert shortened(fit, 1000, 1).num_samples == 1
    assert shortened(fit, 1000, 24).num_samples == 1  # one text's tokens exactly
    assert rebatched(fit, 48) is fit  # batches from Python stay as they are


def test_healing_reads_no_label_and_brings_the_cut_nearer(chain, writer, task):
    reference = predictions(writer, task.batches("validation"))
    small = apply(chain, plan_of(DropSpan(start=0, stop=2)), data=task.batches("fit"))
    options = healing(2000)
    assert options.label_weight == 0 and options.tokens == 2000
    before = grade(small, task, reference).kl
    report = tune_(small, task, writer, options.model_copy(update={"learning_rate": 3e-3}))
    assert report.num_steps == -(-(2000 // 24) // 16)
    assert grade(small, task, reference).kl < before


def test_recomputing_changes_no_step(chain, writer, task):
    plan = plan_of(DropSpan(start=3, stop=4))
    found = []
    for save_memory in (False, True):
        small = apply(chain, plan, data=task.batches("fit"))
        tune_(small, task, writer, TuneOptions(epochs=1, learning_rate=1e-3, save_memory=save_memory))
        found.append(small)
    for one, two in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize(("text", "number"), [("50k", 50_000), ("1.5M", 1_500_000), ("700", 700)])
def test_numbers_of_tokens(text, number):
    assert num_tokens_of(text) == number


@pytest.mark.parametrize("text", ["", "k", "-3", "0", "many", "inf", "1e400"])
def test_what_is_no_number_of_tokens_is_refused(text):
    with pytest.raises(BudgetError, match="50k"):
        num_tokens_of(text)


def test_writing_is_timed_with_the_cache_at_each_batch_size(writer, chain, task):
    from delayer.measure.writing import can_write, compare_writing

    small = apply(chain, plan_of(DropSpan(start=1, stop=5)), data=task.batches("fit"))
    inputs = {"input_ids": sequences(2)}
    assert can_write(writer, inputs) and not can_write(writer, inputs["input_ids"])
    assert not can_write(torch.nn.Linear(2, 2), inputs)
    found = compare_writing(writer, small, inputs, (1, 3), seconds=0.1)
    assert [info.batch_size for info in found] == [1, 3]
    assert all("writing 32 tokens" in info.engine and info.dtype == "float32" and info.num_rounds >= 5 for info in found)
    assert all(info.speedup > 1 for info in found)  # two blocks of six


def test_adapters_are_trained_alone_and_merged(writer, chain, task):
    pytest.importorskip("peft")
    reference = predictions(writer, task.batches("validation"))
    small = apply(chain, plan_of(DropSpan(start=0, stop=2)), data=task.batches("fit"))
    names, before = list(small.state_dict()), deepcopy(small)
    report = tune_(small, task, writer, TuneOptions(epochs=2, learning_rate=1e-2, label_weight=0.0, lora=2))
    assert list(small.state_dict()) == names and not any("lora" in path for path, _ in small.named_modules())
    assert report.num_params < sum(p.numel() for p in small.parameters()) / 3
    assert report.best_epoch and report.after.kl == pytest.approx(grade(small, task, reference).kl, rel=1e-3)
    for (name, new), old in zip(small.named_parameters(), before.parameters(), strict=True):
        change = (new - old).detach()
        assert torch.linalg.matrix_rank(change, tol=1e-4) <= 2 if "proj" in name else torch.equal(new, old)
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_long_texts_are_timed_by_their_first_tokens():
    from delayer.stages.check import timed

    ids = torch.arange(600).view(2, 300)
    cut = timed({"input_ids": ids, "attention_mask": torch.ones_like(ids), "other": torch.zeros(2)})
    assert torch.equal(cut["input_ids"], ids[:, :128]) and cut["attention_mask"].shape == (2, 128) and cut["other"].shape == (2,)
    assert timed(ids) is ids and timed({"input_ids": ids[:, :9]})["input_ids"].shape == (2, 9)
