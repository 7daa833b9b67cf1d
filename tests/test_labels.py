"""Labels of every form are understood, or a note says what was assumed, or one sentence refuses them."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from delayer.errors import DataError
from delayer.tasks import TaskOptions, open_task
from delayer.tasks.labels import head_labels
from delayer.tasks.sources import Samples
from delayer.tasks.sources._labels import labels_of

ROOT = Path(__file__).parent.parent
NUMBERS = TaskOptions(kind="regression")
UNDERSTOOD = [  # cells, values, names, what is said
    ([2, 0, 1], [2, 0, 1], None, None),
    (["2", " 0", "1"], [2, 0, 1], None, None),
    ([np.int64(2), np.uint8(0), 1], [2, 0, 1], None, None),
    ([f"{k}.0" for k in range(1, 12)], list(range(1, 12)), None, "such as 1.0 are read as class numbers, here 1"),
    ([2.0, 0.0, 1.0], [2, 0, 1], None, "such as 2.0 are read as class numbers"),
    (["1e1", "0", "1"], [10, 0, 1], None, "such as 1e1 are read as class numbers, here 10"),
    ([True, False, True], [1, 0, 1], None, "true and false: they are read as classes 1 and 0"),
    (["TRUE", "false", " True"], [1, 0, 1], None, "true and false"),
    ([0.5, 1, "7.25"], [0.5, 1.0, 7.25], None, "targets of regression, from 0.5 to 7.25"),
    ([[2], [0], [1]], [2, 0, 1], None, None),
    ([["b"], ["a"], ["b"]], [1, 0, 1], ("a", "b"), None),
    ([[0, 0, 1], [1, 0, 0], [0, 1, 0]], [2, 0, 1], None, "one-hot.*its place is the class number"),
    ([[0.5, 2], [1, 3]], [[0.5, 2.0], [1.0, 3.0]], None, "lists of 2 numbers, targets of regression"),
    ([[[1, 2], [3, 4]], [[1, 2], [3, 5]]], [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 5.0]]], None, "lists of 2 × 2 numbers"),
    (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog"), None),
    (["dog ", "cat", " dog"], [1, 0, 1], ("cat", "dog"), "Spaces around 2 labels"),
    (["Cat", "cat", "dog"], [0, 1, 2], ("Cat", "cat", "dog"), "'Cat' and 'cat' .* differ in case or spaces alone"),
    (["3", "cat", 3], [0, 1, 0], ("3", "cat"), "2 of 3 labels .* are numbers, such as 3, and others are names, such as cat"),
    (["NA", "DE", "DE"], [1, 0, 0], ("DE", "NA"), r"a class called 'NA' \(1 samples\). If that means no label"),
]


@pytest.mark.parametrize(("cells", "values", "names", "said"), UNDERSTOOD)
def test_labels_are_understood_and_what_was_assumed_is_said(cells, values, names, said):
    found = labels_of(cells, "file")
    assert found.values.tolist() == values and found.names == names
    assert found.values.dtype == (torch.float32 if re.search("targets|lists of", said or "") else torch.int64)
    assert len(found.notes) == (said is not None) and (said is None or re.search(said, found.notes[0])), found.notes


MISSING = "1 of 3 samples of file have no label, first sample 1.*--no-labels"
REFUSED = [
    (["a", "", "b"], MISSING),
    (["a", "  ", "b"], MISSING),
    ([1, None, 0], MISSING),
    ([1.0, float("nan"), 0], MISSING),
    (["1", "NaN", "0"], MISSING),
    (["1", "null", "0"], MISSING),
    (["1", "N/A", "0"], MISSING),
    (["0.5", "?", "1"], MISSING),
    (["a", None, "b"], MISSING),
    ([[1], None, [0]], MISSING),
    ([[1, 2], [0], []], "lists, such as .1, 2., which name several classes at once.*--no-labels"),
    ([["a", "b"], ["c", "d"]], "several classes at once"),
    ([[0, 1, 1], [1, 0, 0]], "several classes at once"),
    ([[1.0, float("inf")], [0.0, 2.0]], "1 of 2 labels of file hold NaN or infinity"),
    ([{"a": 1}, {"a": 2}], "Label 0 of file is a dict. Give a class number"),
    ([10**30, 1], "go up to 1e\\+30, which is no class number"),
]


@pytest.mark.parametrize(("cells", "message"), REFUSED)
def test_labels_that_mean_nothing_are_refused_in_one_sentence(cells, message):
    with pytest.raises(DataError, match=message):
        labels_of(cells, "file")


def test_rows_of_zeros_and_ones_are_targets_if_that_is_said():
    assert labels_of([[0, 1, 1], [1, 0, 0]], "file", NUMBERS).values.tolist() == [[0, 1, 1], [1, 0, 0]]


def on_head(labels, names=None, num=3, kind="image-classification", **options):
    samples = Samples("arrays", len(labels), None, "", torch.tensor(labels), names)
    return head_labels(samples, kind, num, nn.Identity(), TaskOptions(**options))


def test_labels_that_count_from_one_are_noticed():
    with pytest.raises(DataError, match="run from 1 to 3, but classes from 0 to 2. They count from 1: subtract 1"):
        on_head([1, 2, 3])
    (note,) = on_head([1, 2, 1]).notes
    assert "No sample has label 0" in note and "subtract 1" in note
    with pytest.raises(DataError, match="-1 to 2.*often marks a missing label"):
        on_head([-1, 0, 2])
    assert not on_head([0, 1, 2]).notes


def test_targets_are_no_classes_and_names_are_no_targets():
    with pytest.raises(DataError, match="Labels such as 0.5 are no class numbers.*--kind regression"):
        on_head([0.5, 1.5])
    found = on_head([0, 1], ("a", "b"), kind="regression")
    assert found.labels is None and "they are names and the network answers with numbers" in found.notes[0]
    assert on_head([3, 7], kind="regression").labels.tolist() == [3.0, 7.0]


def test_names_with_numbers_say_in_which_order_they_stand():
    names = tuple(sorted(map(str, range(1, 12))))
    (first, order) = on_head(list(range(11)), names, num=11).notes
    assert "in order: 1, 10, 11" in first and "order of their text" in order and "as 1, 2, 3, ..., give that order" in order
    assert len(on_head([0, 1, 2], ("a", "b", "c")).notes) == len(on_head([0, 1, 2], ("1", "2", "3")).notes) == 1


# -- the same through every source


class Net(nn.Module):
    def __init__(self, num: int = 12):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, num)

    def forward(self, x):
        return self.head(x.float())


DECIMALS = [f"{k % 11 + 1}.0" for k in range(44)]


def test_decimals_in_arrays_and_tables_are_the_same_classes(tmp_path):
    rows = np.random.default_rng(0).normal(size=(44, 4)).astype("float32")
    np.savez(tmp_path / "floats.npz", x=rows, y=np.array(DECIMALS, float))
    np.savez(tmp_path / "texts.npz", x=rows, y=np.array(DECIMALS))
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": rows.tolist(), "label": DECIMALS})
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    for spec in ("npz:floats.npz", "npz:texts.npz", "parquet:a.parquet", "hf:saved"):
        kind, _, name = spec.partition(":")
        task = open_task(f"{kind}:{tmp_path / name}", Net())
        labels = torch.cat([batch.labels for part in task.splits for batch in task.batches(part)])
        assert labels.unique().tolist() == list(range(1, 12)) and task.has_labels, spec
        assert any("such as" in note and "class numbers" in note for note in task.notes), spec


def test_a_label_column_that_is_not_recognised_is_mentioned(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"x": torch.randn(12, 4).tolist(), "mood": [0, 1, 2] * 4}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "a.parquet")
    task = open_task(f"parquet:{tmp_path / 'a.parquet'}", Net())
    (note,) = [note for note in task.notes if "is known to hold labels" in note]
    assert "mood is not used" in note and "--label-column" in note and not task.has_labels
    named = open_task(f"parquet:{tmp_path / 'a.parquet'}", Net(), TaskOptions(label_column="mood"))
    assert named.has_labels and not any("is known to hold labels" in note for note in named.notes)
    unasked = open_task(f"parquet:{tmp_path / 'a.parquet'}", Net(), TaskOptions(labels=False))
    assert not any("is known to hold labels" in note for note in unasked.notes)


def test_labels_that_only_later_lines_have_are_refused(tmp_path):
    lines = [{"text": "a"}, {"text": "b", "label": 1}, {"text": "c", "label": 0}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="Line 2 of .* has a label, which the first lacks.*--no-labels"):
        open_task(f"jsonl:{tmp_path / 'a.jsonl'}", Net())


def folders(root, *names, empty=()):
    image = pytest.importorskip("PIL.Image")
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(0 if name in empty else 4):
            image.new("L", (2, 2), 10 * i).save(root / name / f"{i}.png")
    return f"imagefolder:{root}"


class OfImages(Net):
    preprocessing = {"mean": (0.5,), "std": (0.5,), "size": 2, "channels": 1}

    def forward(self, x):
        return self.head(x.flatten(1))


def test_image_folders_that_are_numbers_empty_or_hidden(tmp_path):
    task = open_task(folders(tmp_path / "numbers", "1", "2", "10"), OfImages(3))
    assert task.class_index == {"1": 0, "10": 1, "2": 2} and any("order of their text" in note for note in task.notes)
    task = open_task(folders(tmp_path / "empty", "a", "b", "c", ".git", empty=["b"]), OfImages(3))
    assert task.class_index == {"a": 0, "b": 1, "c": 2}
    assert any("1 class folders" in note and "hold no images (b)" in note for note in task.notes)


# -- libraries of sources that are not there


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        ("sklearn", "digits", "digits needs scikit-learn, which is not installed: pip install 'delayer.data.'"),
        ("datasets", "parquet:a.parquet", "parquet:a.parquet needs datasets, which is not installed: .*delayer.data."),
        ("datasets", "hf:some/where", "hf:some/where needs datasets"),
        ("PIL", "imagefolder:.", "imagefolder:. needs pillow, .*delayer.vision."),
        ("PIL", "npz:a.npz", "npz:a.npz needs pillow"),
        ("transformers", "csv:a.csv", "csv:a.csv needs transformers, .*delayer.text."),
    ],
)
def test_a_library_that_is_missing_is_one_sentence(module, spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", x=np.zeros((9, 2, 2), "uint8"))
    (tmp_path / "a.csv").write_text("text\na\nb\nc\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=message):
        open_task(spec, OfImages())


def test_a_missing_library_is_exit_code_two(monkeypatch, capsys, tmp_path):
    from delayer import cli

    monkeypatch.chdir(ROOT)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(sys, "argv", ["delayer", "score", "tests.tiny:network", "--data", "digits", "--out", str(tmp_path / "s")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "digits needs scikit-learn" in " ".join(capsys.readouterr().err.split())
