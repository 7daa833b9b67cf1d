"""Data as people have it: pairs of texts, chats, tables and documents of many forms, linked and split folders, one-hot labels."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from test_labels import OfImages
from test_sources import WORDS, ids_of, tokens
from test_sources import text_models as text_models
from torch import nn

from delayer.errors import DataError
from delayer.families import chain_of
from delayer.network.calling import call, example_of, output_of
from delayer.tasks import TaskOptions, evaluate, open_task, predictions, task_of
from delayer.tasks.sources import spec_parts

# -- batches from Python -------------------------------------------------------------------------------------------------

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("key", ["labels", "label", "target", "targets"])
def test_labels_have_any_of_their_names(key):
    task = task_of([{"x": X, key: torch.tensor([0, 1, 2, 0, 1, 2])}])
    assert task.has_labels and set(task.batches("fit")[0].inputs) == {"x"}
    assert task.batches("fit")[0].labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_labels_twice_or_alone_are_refused():
    y = torch.zeros(6, dtype=torch.long)
    with pytest.raises(DataError, match="has labels in labels and target. Leave all but one out"):
        task_of([{"x": X, "labels": y, "target": y}])
    with pytest.raises(DataError, match=r"has labels in label and \(x, y\)"):
        task_of([({"x": X, "label": y}, y)])
    with pytest.raises(DataError, match="is a dict of labels alone. Give the network's inputs"):
        task_of([{"label": y}])


def test_one_hot_rows_are_classes_and_floats_are_targets_and_that_is_said():
    task = task_of([(X, torch.eye(3)[[2, 0, 1, 2, 0, 1]])], model=nn.Linear(4, 3))
    assert task.kind == "image-classification" and task.batches("fit")[0].labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert any("one-hot" in note and "class number" in note for note in task.notes)
    task = task_of([(X, torch.rand(6))], model=nn.Linear(4, 1))
    assert task.kind == "regression" and any("targets of regression" in note for note in task.notes)
    with pytest.raises(DataError, match="name several classes at once"):
        task_of([(X, torch.ones(6, 3))])
    assert task_of([(X, torch.eye(3)[[2, 0, 1, 2, 0, 1]])], kind="regression").batches("fit")[0].labels.shape == (6, 3)


# -- tables and documents ------------------------------------------------------------------------------------------------

ROWS = [(f"good {WORDS[5 + k % 5]}", f"bad {WORDS[5 + k % 3]}", k % 2) for k in range(12)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Options with a tokenizer that marks both texts of a pair, as BERT's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    folder = tmp_path_factory.mktemp("pairs")
    PreTrainedTokenizerFast(
        tokenizer_object=plain,
        unk_token="<unk>",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return TaskOptions(tokenizer=str(folder))


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def objects(**names):
    return [{names.get("first", "text"): a, names.get("label", "label"): c} for a, _, c in ROWS]


FORMS = {
    "semicolons": ("csv:t.csv", "text;label\n" + "".join(f"{a};{c}\n" for a, _, c in ROWS)),
    "semicolons, commas in texts": ("csv:t.csv", 'text;label\n"good, a";1\n' + "".join(f"{a};{c}\n" for a, _, c in ROWS[1:])),
    "tabs": ("csv:t.csv", "text\tlabel\n" + "".join(f"{a}\t{c}\n" for a, _, c in ROWS)),
    "commas, semicolons in texts": ("csv:t.csv", 'text,label\n"good; a",1\n' + "".join(f"{a},{c}\n" for a, _, c in ROWS[1:])),
    "nested": ("jsonl:t.jsonl", "\n".join(json.dumps({"data": row, "id": 3}) for row in objects())),
    "a list": ("jsonl:t.json", objects()),
    "a list, indented": ("jsonl:t.json", json.dumps(objects(), indent=2)),
    "under one key": ("jsonl:t.json", {"data": objects()}),
    "under one key, with more": ("text:t.json", {"version": "1.0", "data": {"items": objects()}, "tags": []}),
    "under a named key": ("jsonl:t.json#train.rows", {"train": {"rows": objects()}, "test": {"rows": objects()[:2]}}),
    "# in the path": ("jsonl:a #1 b/t.json", objects()),
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_and_documents_of_any_form_are_the_same_data(form, text_models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec, content = FORMS[form]
    path = tmp_path / spec.partition(":")[2].removesuffix("#train.rows")
    path.parent.mkdir(exist_ok=True)
    written(path, content)
    task = open_task(spec, text_models["classifier"])
    assert task.has_labels and task.kind == "text-classification"
    assert sum(task.batches(part).num_samples for part in task.splits) == 12
    assert (3, *ids_of("good b"), 4) in tokens(task)


def test_columns_inside_objects_can_be_named_and_lists_too(text_models, tmp_path):
    rows = [{"a": {"text": "good a"}, "b": {"text": "bad b"}, "meta": {"star": k % 2}} for k in range(9)]
    path = written(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    options = TaskOptions(text_column="b.text", label_column="meta.star")
    assert tokens(open_task(f"jsonl:{path}", text_models["classifier"], options))[0] == (3, *ids_of("bad b"), 4)
    path = written(tmp_path / "two.json", {"a": rows, "b": rows})
    with pytest.raises(DataError, match="holds no list of objects that is the only one; found a, b. Name its field"):
        open_task(f"jsonl:{path}", text_models["classifier"])
    with pytest.raises(DataError, match=r"has no field 'c' \(#c\); found a, b. Name the field"):
        open_task(f"jsonl:{path}#c", text_models["classifier"])


def test_a_semicolon_table_may_have_decimal_commas(text_models, tmp_path):
    path = written(tmp_path / "t.csv", "text;label\n" + "".join(f"{a};{k},5\n" for k, (a, _, _) in enumerate(ROWS)))
    task = open_task(f"csv:{path}", text_models["classifier"], TaskOptions(kind="regression"))
    assert any("decimal comma" in note for note in task.notes) and any("targets of regression" in note for note in task.notes)
    labels = torch.cat([batch.labels for part in task.splits for batch in task.batches(part)])
    assert sorted(labels.tolist()) == [k + 0.5 for k in range(12)]


@pytest.mark.parametrize("front", ["sep=;\n", "\r\n", "\n"])
def test_what_spreadsheets_write_before_a_table_is_none_of_its_rows(front, text_models, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes((front + "text;label\n" + "".join(f"{a};{k % 2}\n" for k, (a, _, _) in enumerate(ROWS))).encode())
    task = open_task(f"csv:{path}", text_models["classifier"], TaskOptions())
    assert sum(len(batch) for part in task.splits for batch in task.batches(part)) == len(ROWS)


def test_one_row_with_a_list_in_it_is_a_row_and_no_document(text_models, tmp_path):
    row = json.dumps({"text": ROWS[0][0], "label": 1, "spans": [{"s": 1}, {"s": 2}]})
    path = written(tmp_path / "t.jsonl", row + "\n")
    with pytest.raises(DataError, match="found 1. Give more data"):
        open_task(f"jsonl:{path}", text_models["classifier"], TaskOptions())
    path = written(tmp_path / "n.jsonl", f'{{"text": "a", "label": {"9" * 5000}}}\n')
    with pytest.raises(DataError, match="Line 1 of .* is not valid JSON"):
        open_task(f"jsonl:{path}", text_models["classifier"], TaskOptions())


def test_a_hash_or_blanks_in_a_path_are_the_paths(tmp_path):
    folder = tmp_path / "a #2 b"
    folder.mkdir()
    np.savez(folder / "x#y.npz", x_train=np.zeros((9, 4, 4), "uint8"), y_train=np.arange(9) % 3)
    assert spec_parts(f"npz:{folder}/x#y.npz#train") == ("npz", f"{folder}/x#y.npz", "train")
    assert spec_parts(f"npz:{folder}/x#y.npz") == ("npz", f"{folder}/x#y.npz", None)
    assert spec_parts("hf:some/set#test") == ("hf", "some/set", "test") and spec_parts("digits") == ("digits", "", None)
    assert open_task(f"npz:{folder}/x#y.npz#train", OfImages(3)).has_labels


@pytest.mark.parametrize("kind", ["parquet", "hf"])
def test_a_parquet_file_may_lie_anywhere(kind, text_models, pairs, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "a #2 b"
    folder.mkdir()
    table = datasets.Dataset.from_list([{"premise": a, "hypothesis": b, "label": c} for a, b, c in ROWS])
    if kind == "hf":
        table.save_to_disk(folder)
    else:
        table.to_parquet(folder / "t #1.parquet")
    task = open_task(f"{kind}:{folder}{'/t #1.parquet' if kind == 'parquet' else ''}", text_models["classifier"], pairs)
    assert (3, *ids_of("good b"), 4, *ids_of("bad b"), 4) in tokens(task)


# -- pairs, targets and chats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("sentence1", "sentence2"), ("text", "text_pair"), ("Premise", "Hypothesis"), ("one", "two")])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_two_columns_are_pairs(names, kind, text_models, pairs, tmp_path):
    first, second = names
    if kind == "csv":
        content = f"{first},{second},label\n" + "".join(f"{a},{b},{c}\n" for a, b, c in ROWS)
    else:
        content = "\n".join(json.dumps({first: a, second: b, "label": c}) for a, b, c in ROWS)
    options = pairs.model_copy(update={"text_column": "one", "pair_column": "two"} if first == "one" else {})
    task = open_task(f"{kind}:{written(tmp_path / 't', content)}", text_models["classifier"], options)
    assert (3, *ids_of("good b"), 4, *ids_of("bad b"), 4) in tokens(task) and task.has_labels
    assert any(f"are pairs: {first} and {second}" in note for note in task.notes)
    batch = task.batches("fit")[0]
    assert set(batch.inputs["token_type_ids"].unique().tolist()) == {0, 1}  # the tokenizer's own way of pairs


def test_pair_columns_that_are_not_there(text_models, tmp_path):
    path = written(tmp_path / "t.csv", "one,other\ngood,bad\n")
    with pytest.raises(DataError, match="no column 'third'; found one, other. Pass one of these as --pair-column"):
        open_task(f"csv:{path}", text_models["classifier"], TaskOptions(text_column="one", pair_column="third"))
    with pytest.raises(DataError, match="--pair-column other names the second text.*Name the first by --text-column"):
        open_task(f"csv:{path}", text_models["classifier"], TaskOptions(pair_column="other"))


def test_a_decoder_reads_a_prompt_and_its_completion_as_one_text(text_models, tmp_path):
    path = written(tmp_path / "t.jsonl", "\n".join(json.dumps({"prompt": a, "completion": b}) for a, b, _ in ROWS))
    task = open_task(f"jsonl:{path}", text_models["writer"])
    assert task.kind == "causal-lm" and (0, *ids_of("good b bad b")) in tokens(task)
    assert any("a new line and completion" in note for note in task.notes)


TEMPLATE = "{{ bos_token }}{% for m in messages %} {{ m['role'][0] }} {{ m['content'] }}{% endfor %}"
CHATS = [("messages", "role", "content", ("user", "assistant")), ("conversations", "from", "value", ("human", "gpt"))]


@pytest.mark.parametrize(("column", "role", "content", "who"), CHATS)
def test_chats_are_written_out_by_the_template(column, role, content, who, text_models, tmp_path):
    from transformers import AutoTokenizer

    chats = [{column: [{role: who[0], content: a}, {role: who[1], content: b}]} for a, b, _ in ROWS]
    path = written(tmp_path / "t.jsonl", "\n".join(map(json.dumps, chats)))
    tokenizer = AutoTokenizer.from_pretrained(text_models["writer"].config._name_or_path)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    task = open_task(f"jsonl:{path}", text_models["writer"], TaskOptions(tokenizer=str(tmp_path / "tokenizer")))
    # <s> once, though both the template and delayer put it in front; "u" is no word, "a" is.
    assert task.kind == "causal-lm" and (0, 2, *ids_of("good b a bad b")) in tokens(task)
    assert any("by the tokenizer's chat template" in note for note in task.notes)
    assert evaluate(text_models["writer"], task).value > 1

    task = open_task(f"jsonl:{path}", text_models["writer"])
    assert any("has no chat template: a turn" in note and "'user: good a'" in note for note in task.notes)
    task = open_task(f"jsonl:{path}", text_models["encoder"])
    assert (3, *ids_of("good b bad b"), 4) in tokens(task)


def test_chats_of_another_form_are_refused(text_models, tmp_path):
    path = written(tmp_path / "t.jsonl", json.dumps({"messages": ["hello"]}))
    with pytest.raises(DataError, match='Chat 0 of .* is no list of turns {"role": ..., "content": ...}; found hello'):
        open_task(f"jsonl:{path}", text_models["writer"])


# -- encoder-decoders ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def translators(tmp_path_factory, text_models):
    """Tiny encoder-decoders, with a head and without, and their tokenizer."""
    import transformers

    root = tmp_path_factory.mktemp("translators")
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_models["classifier"].config._name_or_path)
    torch.manual_seed(0)
    t5 = transformers.T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2, decoder_start_token_id=2, pad_token_id=0
    )
    bart = transformers.BartConfig(
        vocab_size=len(WORDS),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=24,
        decoder_start_token_id=1,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=1,
    )
    found = {}
    for name, kind, config in (
        ("t5", transformers.T5ForConditionalGeneration, t5),
        ("bart", transformers.BartForConditionalGeneration, bart),
        ("bare", transformers.T5Model, t5),
    ):
        kind(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        found[name] = kind.from_pretrained(root / name).eval()
    return found


@pytest.mark.parametrize(("name", "start"), [("t5", 2), ("bart", 1)])
def test_an_encoder_decoder_reads_one_column_and_writes_the_other(name, start, translators, tmp_path):
    model = translators[name]
    path = written(tmp_path / "t.csv", "source,target\n" + "".join(f"{a} was,{b} good film\n" for a, b, _ in ROWS))
    task = open_task(f"csv:{path}", model, TaskOptions(batch_size=5))
    assert task.kind == "seq2seq" and not task.has_labels
    assert any("The network reads source and writes target" in note for note in task.notes)
    batch = task.batches("fit")[0]
    assert {"input_ids", "attention_mask", "decoder_input_ids"} <= set(batch.inputs)
    assert batch.inputs["decoder_input_ids"][0].tolist()[:3] == [start, 3, WORDS.index("bad")]

    # The grade, text by text: what the network would be trained by.
    total, count = 0.0, 0
    for batch in task.batches("validation"):
        for k in range(len(batch)):
            read = batch.inputs["input_ids"][k][batch.inputs["attention_mask"][k].bool()]
            wrote = batch.inputs["decoder_input_ids"][k][batch.inputs["decoder_attention_mask"][k].bool()]
            with torch.no_grad():
                logits = model(input_ids=read[None], decoder_input_ids=wrote[None]).logits[0]
            total += torch.nn.functional.cross_entropy(logits[:-1], wrote[1:], reduction="sum").item()
            count += len(wrote) - 1
    grade = evaluate(model, task)
    assert grade.name == "perplexity" and grade.value == pytest.approx(np.exp(total / count), rel=1e-4)
    reference = predictions(model, task.batches("validation"))
    assert evaluate(model, task, reference=reference).agreement == 100


def test_masks_of_reading_and_writing_are_told_apart(translators, tmp_path):
    path = written(tmp_path / "t.csv", "source,target\n" + "".join(f"{a},{a}\n" for a, _, _ in ROWS))
    for batch in open_task(f"csv:{path}", translators["t5"]).batches("fit"):
        read, wrote = batch.inputs["attention_mask"], batch.inputs["decoder_attention_mask"]
        assert read.shape[1] != wrote.shape[1]
        assert batch.mask_for(read.shape[1]) is read and batch.mask_for(wrote.shape[1]) is wrote and batch.mask_for(99) is None


def test_texts_alone_are_read_and_written_again(translators, tmp_path):
    path = written(tmp_path / "t.txt", "\n".join(f"{a} was" for a, _, _ in ROWS))
    task = open_task(f"text:{path}", translators["t5"])
    assert task.kind == "seq2seq" and any("reads each text and writes it again" in note for note in task.notes)
    task = open_task(f"text:{path}", translators["bare"])
    assert task.kind == "embedding" and "decoder_input_ids" in task.batches("fit")[0].inputs
    assert (
        evaluate(translators["bare"], task, reference=predictions(translators["bare"], task.batches("validation"))).value == 100
    )


def test_an_encoder_decoder_goes_the_road(translators, tmp_path):
    """Observed, cut and tuned on both inputs, by what the command line gives."""
    from delayer import apply, tune
    from delayer.cutting import plan_by_hand
    from delayer.tuning import TuneOptions

    model = translators["t5"]
    path = written(tmp_path / "t.csv", "source,target\n" + "".join(f"{a} was,{b} good film\n" for a, b, _ in ROWS))
    task = open_task(f"csv:{path}", model)
    chain = chain_of(model, example_of(task.batches("fit")[0].inputs))
    plan = plan_by_hand(chain, ["1"], operator="drop")
    small = apply(chain, plan)
    again, report = tune(small, task, model, TuneOptions(epochs=1))
    assert report.num_steps > 0 and output_of(call(again, task.batches("test")[0].inputs)).shape[-1] == len(WORDS)


# -- folders of images -----------------------------------------------------------------------------------------------------


def image(path, colour=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), colour).save(path)


def test_folders_that_are_splits_are_taken_as_such(tmp_path):
    for split, shade in (("train", 0), ("val", 100)):
        for k, name in enumerate(("cat", "dog")):
            for i in range(6):
                image(tmp_path / split / name / f"{i}.png", shade + 10 * k + i)
    task = open_task(f"imagefolder:{tmp_path}", OfImages(2), TaskOptions(mean=(0.0,), std=(1.0,)))
    assert any("are splits: fit from train, validation from val, test from val" in note for note in task.notes)
    seen = {}
    for part in task.splits:
        batches = list(task.batches(part))
        shades = (torch.cat([b.inputs for b in batches])[:, 0, 0, 0] * 255).round().int()
        assert torch.equal(torch.cat([b.labels for b in batches]), (shades % 100 >= 10).long())
        seen[part] = set(shades.tolist())
    assert max(seen["fit"]) < 100 <= min(seen["validation"] | seen["test"]) and not seen["validation"] & seen["test"]
    assert (len(seen["fit"]), len(seen["validation"] | seen["test"])) == (12, 12)
    assert open_task(f"imagefolder:{tmp_path}#val", OfImages(2)).class_index == {"cat": 0, "dog": 1}
    with pytest.raises(DataError, match=r"has no folder 'tset' \(#tset\); found train, val"):
        open_task(f"imagefolder:{tmp_path}#tset", OfImages(2))

    # A test folder of its own is for the test; one without classes is left out, and said.
    for k, name in enumerate(("cat", "dog")):
        image(tmp_path / "test" / name / "t.png", 200 + k)
    task = open_task(f"imagefolder:{tmp_path}", OfImages(2))
    assert any("validation from val, test from test" in note for note in task.notes) and task.batches("test").num_samples == 2
    shutil.rmtree(tmp_path / "test")
    for i in range(3):
        image(tmp_path / "test" / f"{i}.png")
    task = open_task(f"imagefolder:{tmp_path}", OfImages(2))
    assert any("test has no class folders, so it is left out" in note for note in task.notes)
    image(tmp_path / "validation" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"two folders for one split \(validation\). Name one, as in imagefolder:"):
        open_task(f"imagefolder:{tmp_path}", OfImages(2))


def test_classes_that_a_split_lacks_keep_their_numbers(tmp_path):
    for name in ("ant", "bee", "cow"):
        for i in range(6):
            image(tmp_path / "train" / name / f"{i}.png", i)
    for i in range(6):
        image(tmp_path / "valid" / "cow" / f"{i}.png", i)
    task = open_task(f"imagefolder:{tmp_path}", OfImages(3))
    assert any("lacks 2 of 3 classes (ant, bee)" in note for note in task.notes)
    assert {label for batch in task.batches("test") for label in batch.labels.tolist()} == {2}


def test_links_to_folders_are_followed_and_end(tmp_path):
    for name in ("cat", "dog"):
        for i in range(4):
            image(tmp_path / "real" / name / "deep" / f"{i}.png", i)
    root = tmp_path / "linked"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(tmp_path / "real" / "cat")
    (root / "dog" / "inner").symlink_to(tmp_path / "real" / "dog" / "deep")
    (root / "dog" / "again").symlink_to(root)  # a circle
    task = open_task(f"imagefolder:{root}", OfImages(2))
    assert task.class_index == {"cat": 0, "dog": 1}
    assert sum(task.batches(part).num_samples for part in task.splits) == 8


def test_pictures_too_large_for_pillow_are_named_as_such(tmp_path, monkeypatch):
    for i in range(4):
        image(tmp_path / "a" / f"{i}.png")
    Image.new("L", (40, 40)).save(tmp_path / "a" / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"1 of 5 images have more than the 200 pixels that Pillow opens.*huge.png. Make them"):
        open_task(f"imagefolder:{tmp_path}", OfImages(2))


def test_t5_by_the_command_line(translators, tmp_path, monkeypatch, capsys):
    from delayer.cli.entry import main

    path = written(tmp_path / "pairs.csv", "source,target\n" + "".join(f"{a} was,{b} good film\n" for a, b, _ in ROWS * 3))
    folder = translators["t5"].config._name_or_path
    argv = ["delayer", "plan", folder, "--data", f"csv:{path}", "--remove", "blocks=1", "--out", str(tmp_path / "study")]
    monkeypatch.setattr(sys, "argv", [*argv, "--operators", "drop", "--no-try-onnx"])
    main()
    assert "plan:" in capsys.readouterr().out
