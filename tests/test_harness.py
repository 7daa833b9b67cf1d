"""Tasks of lm-evaluation-harness on networks in memory: what the harness counts is what a literal loop counts."""

import json

import pytest
import torch

from delayer.errors import DataError
from delayer.measure.harness import compare_on_tasks

pytest.importorskip("lm_eval")
transformers = pytest.importorskip("transformers")

WORDS = [f"w{k}" for k in range(20)]
DOCS = [{"text": f"w{k} w{k + 1}", "options": [f"w{(k + 2) % 20}", f"w{(k + 9) % 20}"], "gold": k % 2} for k in range(12)]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    plain = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1} | {word: k + 2 for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="<s>")


def writer(seed: int):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=22,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    config.initializer_range = 0.5
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def task(tmp_path):
    data = tmp_path / "docs.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCS)))
    file = tmp_path / "counting.yaml"
    file.write_text(
        f"""task: counting
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_target: gold
doc_to_choice: options
metric_list:
  - metric: acc
"""
    )
    return str(file)


def accuracy(model, tokenizer) -> float:
    """The share of documents whose right word has the larger log-probability behind the text."""
    right = 0
    for doc in DOCS:
        ids = torch.tensor([tokenizer(doc["text"]).input_ids])
        with torch.no_grad():
            found = model(input_ids=ids).logits[0, -1].log_softmax(-1)
        scores = [float(found[tokenizer(word).input_ids[0]]) for word in doc["options"]]
        right += int(scores.index(max(scores)) == doc["gold"])
    return right / len(DOCS)


def test_both_networks_are_graded_as_a_literal_loop_grades_them(tokenizer, task):
    models = writer(0), writer(3)
    [row] = [row for row in compare_on_tasks(*models, tokenizer, [task]) if row.metric == "acc"]
    assert (row.original, row.cut) == pytest.approx([accuracy(model, tokenizer) for model in models])
    assert row.original != row.cut  # or the next lines say nothing
    assert row.num_samples == len(DOCS) and row.higher_is_better
    assert row.difference_interval is not None
    low, high = row.difference_interval
    assert low <= row.cut - row.original <= high and low < high


def test_a_network_beside_itself_loses_nothing(tokenizer, task):
    model = writer(0)
    [row] = [row for row in compare_on_tasks(model, model, tokenizer, [task], limit=6) if row.metric == "acc"]
    assert row.original == row.cut and row.difference_interval == (0.0, 0.0) and row.num_samples == 6


def test_a_task_that_is_not_there_is_named(tokenizer):
    with pytest.raises(DataError, match="could not run no_such_task_at_all.*Name tasks as"):
        compare_on_tasks(writer(0), writer(0), tokenizer, ["no_such_task_at_all"])
