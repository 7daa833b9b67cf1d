"""Every data source on the command line: what it reads, what it says, and what it refuses."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from delayer.errors import DataError, NotFiniteError, UnknownName
from delayer.tasks import TaskOptions, evaluate, grade_of, open_task, predictions
from delayer.tasks.images import image_tensor
from delayer.tasks.preprocessing import ImagePlan, image_plan
from delayer.tasks.sources import sources

PARTS = ("fit", "validation", "test")


class Net(nn.Module):
    """Sees the mean colour of images of any size: an own network with `preprocessing`."""

    def __init__(self, num_classes: int = 3, channels: int = 3, **preprocessing):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 1)
        self.head = nn.Linear(4, num_classes)
        if preprocessing:
            self.preprocessing = preprocessing

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


PLAIN = {"mean": (0.5,), "std": (0.5,)}


def everything(task, part=None):
    batches = [batch for name in ([part] if part else task.splits) for batch in task.batches(name)]
    labels = None if batches[0].labels is None else torch.cat([batch.labels for batch in batches])
    return torch.cat([batch.inputs for batch in batches]), labels


def image_folder(root, classes=("cat", "dog", "eel"), num=8, size=(10, 10), mode="RGB"):
    """Folders of one colour each: class k has red 40·k + number of the image."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(num):
            colour = 40 * k + i if mode == "L" else (40 * k + i, 0, 255)
            Image.new(mode, size, colour).save(root / name / f"{i}.png")
    return root


# -- naming a source


def test_there_is_a_file_for_each_source():
    assert list(sources) == ["csv", "digits", "hf", "imagefolder", "jsonl", "npz", "parquet", "text"]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("imagefoldr:x", UnknownName, "no data source 'imagefoldr'. Did you mean imagefolder"),
        ("some/folder", DataError, "does not say what it is. Write KIND:PATH, with a KIND among csv, digits"),
        ("npz:nowhere.npz", DataError, "no file or folder 'nowhere.npz'"),
        ("digits#train", DataError, "#train was asked of 'digits', which has no named parts"),
    ],
)
def test_a_source_that_is_misnamed(spec, error, message):
    if spec == "digits#train":
        spec = "digits:#train"
    with pytest.raises(error, match=message):
        open_task(spec, Net())


# -- image folders


def test_class_folders_give_labels_by_sorted_names(tmp_path):
    task = open_task(f"imagefolder:{image_folder(tmp_path)}", Net(**PLAIN))
    x, y = everything(task)
    assert (task.kind, task.has_labels) == ("image-classification", True)
    assert task.class_index == {"cat": 0, "dog": 1, "eel": 2}
    red = ((x[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().long()
    assert torch.equal(red // 40, y) and len(red.unique()) == 24  # every image once, in no part twice
    assert x.shape == (24, 3, 10, 10) and torch.all(x[:, 2] == 1)
    assert [task.batches(part).num_samples for part in PARTS] == [12, 6, 6]
    assert all(y.bincount().tolist() == [n // 3] * 3 for part in PARTS for _, y in [everything(task, part)] for n in [len(y)])


@pytest.mark.parametrize(
    ("names", "among"),
    [
        ("ant\neel, a fish\nbee\ncat\ndog and more\nfox\n", None),
        ("\neel, a fish\n\ncat\ndog and more\n", (1, 3, 4)),
        ("ant\neel, a fish\n\ncat\ndog and more\n", (0, 1, 3, 4)),
    ],
)
def test_a_class_file_maps_folders_to_the_head_and_narrows_it_only_by_what_it_leaves_out(tmp_path, names, among):
    root = image_folder(tmp_path / "data")
    image_folder(tmp_path / "test", classes=("cat", "eel"), num=3)  # fewer classes must not change the scale
    (tmp_path / "names.txt").write_text(names)
    net = Net(num_classes=6, **PLAIN)
    net.head.bias.data[2] = 100.0  # the head always says bee, which is no class of the data
    options = TaskOptions(classes=tmp_path / "names.txt", batch_size=5)
    task = open_task(f"imagefolder:{root}", net, options, test_spec=f"imagefolder:{tmp_path / 'test'}")
    assert task.class_index == {"cat": 3, "dog": 4, "eel": 1}
    for part in PARTS:
        x, y = everything(task, part)
        assert set(y.tolist()) == ({1, 3} if part == "test" else {1, 3, 4})
        chosen = torch.tensor(among or range(6))
        expected = (chosen[net(x)[:, chosen].argmax(1)] == y).double().mean() * 100
        reference = predictions(net, task.batches(part))
        for grade in (evaluate(net, task, part), evaluate(net, task, part, reference=reference, limit=2)):
            assert grade.name == "top-1 accuracy" + (f" among {len(among)} classes" if among else "")
        assert evaluate(net, task, part).value == pytest.approx(expected.item()) and (among or expected == 0)
        assert reference.values.shape == (len(y), 6)  # divergence is over the whole head
    said = f"names {len(among)} of the head's 6 outputs: accuracy is among these" if among else "accuracy is over the whole head"
    assert any(said in note for note in task.notes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cat\ndog\n", "lacks 1 of 3 classes of the data: eel"),
        ("cats\ndog\neel\n", "lacks 1 of 3 classes of the data: cat. Did you mean cats?"),
        ("\n".join("abcdefg"), "lists 7 classes, the network has 6 outputs"),
    ],
)
def test_a_class_file_that_does_not_fit(tmp_path, names, message):
    root = image_folder(tmp_path / "data")
    (tmp_path / "names.txt").write_text(names)
    with pytest.raises(DataError, match=message):
        open_task(f"imagefolder:{root}", Net(6, **PLAIN), TaskOptions(classes=tmp_path / "names.txt"))


def test_other_numbers_of_classes_and_flat_folders_go_on_without_labels(tmp_path):
    task = open_task(f"imagefolder:{image_folder(tmp_path / 'a')}", Net(5, **PLAIN))
    assert not task.has_labels and everything(task)[1] is None
    assert any("3 classes, the network has 5 outputs: labels are left out" in note for note in task.notes)
    (tmp_path / "flat").mkdir()
    for i in range(4):
        Image.new("RGB", (6, 6)).save(tmp_path / "flat" / f"{i}.jpg")
    flat = open_task(f"imagefolder:{tmp_path / 'flat'}", Net(**PLAIN))
    assert not flat.has_labels and everything(flat)[0].shape == (4, 3, 6, 6)
    assert not open_task(f"imagefolder:{tmp_path / 'a'}", Net(3, **PLAIN), TaskOptions(labels=False)).has_labels


def test_unreadable_images_are_named(tmp_path):
    root = image_folder(tmp_path)
    for i in range(7):
        (root / "dog" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"7 of 24 images cannot be read: .*dog/\d.png.* and 2 more") as found:
        open_task(f"imagefolder:{root}", Net(**PLAIN))
    assert str(found.value).count("dog/") == 5


def test_an_image_with_a_sound_header_and_a_broken_body_is_named_when_touched(tmp_path):
    root = image_folder(tmp_path, size=(64, 64))
    for file in (root / "eel").iterdir():
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8")
        Image.fromarray(noise).save(file)
        file.write_bytes(file.read_bytes()[:3000])
    task = open_task(f"imagefolder:{root}", Net(**PLAIN), TaskOptions(labels=False, batch_size=24, seed=2))
    with pytest.raises(DataError, match=r"images cannot be read: .*eel/\d.png"):
        for part in PARTS:
            evaluate(Net(**PLAIN), task, part, reference=None)


def test_empty_folders(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        open_task(f"imagefolder:{tmp_path}", Net())
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="is a file. Give the folder"):
        open_task(f"imagefolder:{tmp_path / 'file.txt'}", Net())
    Image.new("RGB", (6, 6)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="need at least 3 samples; found 1"):
        open_task(f"imagefolder:{tmp_path}", Net())


def test_grey_and_odd_images_are_converted_and_that_is_said(tmp_path):
    root = image_folder(tmp_path)
    Image.new("L", (10, 10), 7).save(root / "cat" / "0.png")
    Image.new("RGB", (30, 20)).save(root / "dog" / "0.png")
    Image.new("RGBA", (10, 10)).save(root / "dog" / "1.png")
    Image.new("I;16", (10, 10), 7 * 257).save(root / "cat" / "1.png")
    task = open_task(f"imagefolder:{root}", Net(size=10, **PLAIN))
    assert "2 of 24 images are greyscale: converted to RGB." in task.notes
    assert "1 of 24 images is not 10 × 10 but of other sizes, such as 20 × 30: resized (bicubic)." in task.notes
    x, _ = everything(task)
    grey = x[(x[:, 0] == x[:, 2]).flatten(1).all(1) & (x[:, 0, 0, 0] > -0.99)]
    assert len(grey) == 2
    torch.testing.assert_close(grey, torch.full_like(grey, (7 / 255 - 0.5) / 0.5))
    one = open_task(f"imagefolder:{root}", Net(channels=1, size=10, **PLAIN))
    assert "22 of 24 images are colour: converted to greyscale." in one.notes
    assert everything(one)[0].shape == (24, 1, 10, 10)


def test_images_of_many_sizes_get_one_if_the_network_states_none(tmp_path):
    root = image_folder(tmp_path, num=3)
    Image.new("RGB", (30, 20)).save(root / "dog" / "0.png")
    task = open_task(f"imagefolder:{root}", Net(**PLAIN))
    assert "Images differ in size and nothing states the network's: 224 is assumed." in task.notes
    assert everything(task)[0].shape == (9, 3, 224, 224)


def test_batches_are_the_same_in_any_order_and_a_batch_of_one_is_told(tmp_path):
    spec = f"imagefolder:{image_folder(tmp_path)}"
    task = open_task(spec, Net(**PLAIN), TaskOptions(batch_size=5))
    assert "The last batch of validation, test holds one sample." in task.notes
    split = task.batches("fit")
    once = list(split)
    for i in (2, 0, -1, 1):
        again = split[i]
        assert torch.equal(again.inputs, once[i].inputs) and again.start == once[i].start == [0, 5, 10][i]
        assert torch.equal(again.labels, once[i].labels) and len(again) == len(once[i])
    with pytest.raises(IndexError):
        split[3]
    whole = open_task(spec, Net(**PLAIN), TaskOptions(batch_size=24))
    assert torch.equal(everything(whole, "fit")[0], torch.cat([batch.inputs for batch in once]))
    few = split.first(7)
    assert [len(batch) for batch in few] == [5, 2] and few.num_samples == 7
    ones = open_task(spec, Net(**PLAIN), TaskOptions(batch_size=1))
    assert "Each batch of fit, validation, test holds one sample." in ones.notes


def test_the_hash_follows_data_seed_and_numbers(tmp_path):
    spec = f"imagefolder:{image_folder(tmp_path / 'a')}"
    hashes = [
        open_task(spec, Net(**PLAIN), options).hash
        for options in (TaskOptions(), TaskOptions(batch_size=3), TaskOptions(seed=1), TaskOptions(num_fit=5))
    ]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    (tmp_path / "a" / "cat" / "0.png").rename(tmp_path / "a" / "cat" / "9.png")
    assert open_task(spec, Net(**PLAIN)).hash != hashes[0]


def test_test_data_of_their_own(tmp_path):
    a, b = image_folder(tmp_path / "a"), image_folder(tmp_path / "b", num=5)
    task = open_task(f"imagefolder:{a}", Net(**PLAIN), test_spec=f"imagefolder:{b}")
    assert [task.batches(part).num_samples for part in PARTS] == [16, 8, 15]
    assert task.has_labels and task.hash != open_task(f"imagefolder:{a}", Net(**PLAIN)).hash
    with pytest.raises(DataError, match="hold the same data"):
        open_task(f"imagefolder:{a}", Net(**PLAIN), test_spec=f"imagefolder:{a}")
    with pytest.raises(DataError, match="hold the same data"):
        open_task(f"imagefolder:{a}", Net(**PLAIN), test_spec=f"imagefolder:{a}/../a")


# -- preprocessing


def test_timm_networks_state_their_own_preprocessing(tmp_path):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model = timm.create_model("test_vit", pretrained=False)
    config = resolve_model_data_config(model)
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype="uint8")).resize((500, 400))
    expected = create_transform(**config)(photo)
    plan = image_plan(model, TaskOptions())
    assert plan.said_by == "timm's data configuration" and plan.size == tuple(config["input_size"][1:])
    torch.testing.assert_close(image_tensor(photo, plan), expected, atol=0.02, rtol=0)
    small = timm.create_model("test_vit", img_size=32, in_chans=1)
    assert image_plan(small, TaskOptions()).size == (32, 32) and image_plan(small, TaskOptions()).channels == 1


@pytest.mark.parametrize(
    ("kind", "width"), [("ViTImageProcessor", 500), ("ConvNextImageProcessor", 440), ("CLIPImageProcessor", 500)]
)
def test_hugging_face_networks_state_their_own_preprocessing(kind, width, tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=16,
        num_labels=3,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    sizes = {
        "ViTImageProcessor": {"size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.2, 0.3]},
        "ConvNextImageProcessor": {"size": {"shortest_edge": 64}},
        "CLIPImageProcessor": {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}},
    }
    processor = getattr(transformers, kind)(**sizes[kind])
    processor.save_pretrained(tmp_path / "model")
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype="uint8")).resize((width, 400))
    plan = image_plan(model, TaskOptions())
    assert plan.said_by == "its image processor"
    expected = processor(photo, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(image_tensor(photo, plan), expected, atol=0.02, rtol=0)
    task = open_task(f"imagefolder:{image_folder(tmp_path / 'data', num=2)}", model)
    assert task.batches("fit")[0].inputs.keys() == {"pixel_values"}  # as the network's forward calls it
    assert evaluate(model, task, "fit").name == "top-1 accuracy"


def test_options_come_before_what_the_network_states():
    net = Net(mean=(0.1, 0.2, 0.3), std=(1, 1, 1), size=20, channels=3)
    plan = image_plan(net, TaskOptions(size=(8, 6), mean=(0.4,)))
    assert (plan.size, plan.mean, plan.std, plan.said_by) == ((8, 6), (0.4,) * 3, (1, 1, 1), "as asked")
    with pytest.raises(DataError, match="mean has 2 values, but images have 3 channels"):
        image_plan(net, TaskOptions(mean=(0.4, 0.5)))


def test_what_nobody_states_is_assumed_and_said(tmp_path):
    task = open_task(f"imagefolder:{image_folder(tmp_path)}", Net())
    assert any("(0.485, 0.456, 0.406)" in note and "assumed, as nothing states it" in note for note in task.notes)
    assert image_plan(Net(channels=1), TaskOptions()).mean == (0.0,)
    net = Net(channels=5)
    with pytest.raises(DataError, match="1 or 3 channels, but the network reads 5"):
        open_task(f"imagefolder:{tmp_path}", net)


def test_thumbnails_are_used_whole_and_photographs_lose_their_border():
    plan = ImagePlan(3, (0.0,) * 3, (1.0,) * 3, (20, 20), 0.5, False, "nearest", "")
    image = np.full((10, 10, 3), 100, dtype="uint8")
    image[0, 0] = 255
    assert image_tensor(image, plan)[0, 0, 0] == 1
    framed = np.zeros((80, 80, 3), dtype="uint8")
    framed[20:60, 20:60] = 255
    assert torch.all(image_tensor(framed, plan) == 1)
    wide = np.zeros((10, 30, 3), dtype="uint8")
    wide[:, 10:20] = 255
    assert torch.all(image_tensor(wide, plan) == 1)


# -- arrays and digits


def test_npz_images_in_all_layouts_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (20, 6, 5, 3), dtype="uint8"), np.arange(20) % 3
    seen = []
    for name, array in {"last": x, "first": x.transpose(0, 3, 1, 2)}.items():
        np.savez(tmp_path / f"{name}.npz", x=array, y=y)
        seen.append(everything(open_task(f"npz:{tmp_path / name}.npz", Net(**PLAIN))))
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    rows = [
        int(np.flatnonzero((x.transpose(0, 3, 1, 2) / 127.5 - 1 - image.numpy() < 1e-3).all((1, 2, 3)))[0])
        for image in seen[0][0]
    ]
    assert sorted(rows) == list(range(20)) and (y[rows] == seen[0][1].numpy()).all()


def test_npz_parts_and_greyscale(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype="uint8")
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.zeros(12, "uint8"), x_test=255 - x[:6])
    train, test = f"npz:{tmp_path / 'a.npz'}#train", f"npz:{tmp_path / 'a.npz'}#test"
    task = open_task(train, Net(channels=1, **PLAIN), test_spec=test)
    assert everything(task, "test")[0].shape == (6, 1, 8, 8) and not task.has_labels
    assert "8 of 8 images are" not in " ".join(task.notes)
    assert "12 of 12 images are greyscale: converted to RGB." in open_task(train, Net(**PLAIN)).notes
    with pytest.raises(DataError, match="no array x; found x_train, y_train, x_test.*#train"):
        open_task(f"npz:{tmp_path / 'a.npz'}", Net())


def test_npz_floats_go_as_they_are(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3, 4, 4))
    np.savez(tmp_path / "a.npz", x=x)
    seen, _ = everything(open_task(f"npz:{tmp_path / 'a.npz'}", Net(**PLAIN)))
    assert seen.dtype == torch.float32
    assert torch.equal(seen.sum((1, 2, 3)).sort()[0], torch.tensor(x).float().sum((1, 2, 3)).sort()[0])
    asked = TaskOptions(mean=(1.0,), std=(2.0,))
    torch.testing.assert_close(everything(open_task(f"npz:{tmp_path / 'a.npz'}", Net(), asked))[0], (seen - 1) / 2)
    with pytest.raises(DataError, match="--size and --channels are for images"):
        open_task(f"npz:{tmp_path / 'a.npz'}", Net(), TaskOptions(size=8))


def good(n=9):
    return np.zeros((n, 3, 4, 4), "float32")


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (
            {"x": np.where(np.arange(9)[:, None] == 5, np.nan, good().reshape(9, -1))},
            NotFiniteError,
            "1 of 9 samples of .* hold NaN or infinity, first sample 5",
        ),
        ({"x": good(0)}, DataError, "empty data set"),
        ({"x": good(0), "y": np.zeros(0, int)}, DataError, "empty data set"),
        ({"x": good(), "y": np.arange(9)}, DataError, "Labels run from 0 to 8, but classes from 0 to 2.*--no-labels"),
        ({"x": good(), "y": np.arange(9) - 7}, DataError, "Labels run from -7 to 1"),
        ({"x": good(), "y": np.zeros(8, int)}, DataError, r"a label for each of 9 samples; found int64 \[8\]"),
        (
            {"x": good(), "y": np.zeros((9, 3))},
            DataError,
            r"lists, such as \[0.0, 0.0, 0.0\], which name several classes at once",
        ),
        ({"x": np.array(["a", "b"])}, DataError, "should be an array of numbers"),
        ({"x": good()[:, :2]}, DataError, "network cannot read the data"),
        ({"a": good()}, DataError, "no array x; found a. Name the samples x"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, arrays, error, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=message):
        open_task(f"npz:{tmp_path / 'a.npz'}", Net())


def test_files_that_are_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", good())
    np.savez_compressed(tmp_path / "b.npz", x=np.random.default_rng(0).normal(size=(99, 9)))
    broken = bytearray((tmp_path / "b.npz").read_bytes())
    broken[3000:3100] = bytes(100)
    (tmp_path / "b.npz").write_bytes(broken)
    (tmp_path / "c.npz").write_bytes(b"PK nonsense")
    np.savez(tmp_path / "d.npz", x=np.array([{}], dtype=object))
    for name in ("a.npy", "b.npz", "c.npz", "d.npz"):
        with pytest.raises(DataError, match="no .npz file of plain arrays"):
            open_task(f"npz:{tmp_path / name}", Net())


def test_digits_are_those_the_demonstration_was_not_trained_on():
    from sklearn.datasets import load_digits

    task = open_task("digits", Net(10, channels=1))
    x, y = everything(task)
    images, labels = load_digits(return_X_y=True)
    expected = torch.tensor((images[1000:] / 16 - 0.5) / 0.5, dtype=torch.float32)
    assert x.shape == (797, 1, 8, 8) and task.has_labels
    assert torch.equal(x.flatten(1).sum(1).sort()[0], expected.sum(1).sort()[0])
    assert y.bincount().tolist() == np.bincount(labels[1000:]).tolist()
    big = open_task("digits", Net(10, channels=3, size=16))
    assert everything(big, "test")[0].shape[1:] == (3, 16, 16)


# -- texts


WORDS = "<s> </s> <unk> [CLS] [SEP] a b c d e good bad film the was".split()


@pytest.fixture(scope="module")
def text_models(tmp_path_factory):
    """Folders of a tiny writer (with <s>, which its tokenizer does not add), classifier and encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    root = tmp_path_factory.mktemp("models")
    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    writer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=24,
            initializer_range=0.5,
        )
    )
    writer.save_pretrained(root / "writer")
    # The padding token is also a real token here, so only the mask can tell padding.
    PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", eos_token="</s>", pad_token="film", unk_token="<unk>"
    ).save_pretrained(root / "writer")
    plain.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)])
    bert = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", cls_token="[CLS]", sep_token="[SEP]")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        label2id={"bad": 1, "good": 0},
        id2label={0: "good", 1: "bad"},
    )
    for name, kind in {"classifier": BertForSequenceClassification, "encoder": BertModel}.items():
        kind(config).save_pretrained(root / name)
        bert.save_pretrained(root / name)
    return {
        "writer": LlamaForCausalLM.from_pretrained(root / "writer"),
        "classifier": BertForSequenceClassification.from_pretrained(root / "classifier"),
        "encoder": BertModel.from_pretrained(root / "encoder"),
    }


def sentences(num=24):
    words = WORDS[5:]
    return [" ".join([*(words[(i * k) % 10] for k in range(1, 3 + i % 6)), words[i % 10]]) for i in range(num)]


def tokens(task):
    return sorted(
        tuple(ids[mask.bool()].tolist())
        for part in task.splits
        for batch in task.batches(part)
        for ids, mask in zip(batch.inputs["input_ids"], batch.mask, strict=True)
    )


def ids_of(text):
    return [WORDS.index(word) for word in text.split()]


def test_a_list_of_texts_becomes_ids_after_the_first_token(text_models, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sentences()))
    task = open_task(f"text:{tmp_path / 'a.json'}", text_models["writer"], TaskOptions(batch_size=5))
    assert (task.kind, task.has_labels) == ("causal-lm", False)
    assert tokens(task) == sorted((0, *ids_of(text)) for text in sentences())
    assert "Texts are read as at most 24 tokens, after <s>." in task.notes
    short = open_task(f"text:{tmp_path / 'a.json'}", text_models["writer"], TaskOptions(max_length=4))
    assert tokens(short) == sorted((0, *ids_of(text)[:3]) for text in sentences())


def test_texts_are_no_longer_than_the_network_has_positions_for(text_models, tmp_path):
    """A table of positions has an end; computed ones have none, but nobody trained those beyond what is stated."""
    (tmp_path / "a.txt").write_text(" ".join(sentences(30)))
    (tmp_path / "b.txt").write_text("\n".join(sentences(30)))
    task = open_task(f"text:{tmp_path / 'a.txt'}", text_models["writer"], TaskOptions(max_length=40))
    assert task.batches("fit")[0].inputs["input_ids"].shape[1] == 40
    assert any("40 is more than the 24 positions that LlamaForCausalLM was made for" in note for note in task.notes)
    with pytest.raises(DataError, match="--max-length 40 is more than the 12 positions that BertModel has. Ask for 12 at most"):
        open_task(f"text:{tmp_path / 'b.txt'}", text_models["encoder"], TaskOptions(max_length=40))


def test_perplexity_of_padded_texts_equals_the_literal_one(text_models, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sentences()))
    model = text_models["writer"]
    task = open_task(f"text:{tmp_path / 'a.json'}", model, TaskOptions(batch_size=5))
    nats, num = 0.0, 0
    for part in PARTS:
        for batch in task.batches(part):
            for ids, mask in zip(batch.inputs["input_ids"], batch.mask, strict=True):
                ids = ids[mask.bool()][None]
                with torch.no_grad():
                    loss = model(input_ids=ids, labels=ids).loss.item()
                if part == "test":
                    nats, num = nats + loss * (ids.shape[1] - 1), num + ids.shape[1] - 1
    assert evaluate(model, task, "test").value == pytest.approx(np.exp(nats / num), rel=1e-4)


def test_a_long_text_is_cut_into_consecutive_pieces(text_models, tmp_path):
    text = " \n".join(sentences())
    (tmp_path / "a.txt").write_text(text)
    task = open_task(f"text:{tmp_path / 'a.txt'}", text_models["writer"], TaskOptions(max_length=10))
    ids = ids_of(text)
    full = len(ids) // 9
    assert len(ids) % 9  # so that there is a rest
    assert tokens(task) == sorted((0, *ids[k : k + 9]) for k in range(0, 9 * full, 9))
    assert f"{full} windows of 10 tokens; the last {len(ids) % 9} tokens" in task.notes[0]
    lines = open_task(f"text:{tmp_path / 'a.txt'}", text_models["encoder"])
    assert lines.kind == "embedding"
    assert tokens(lines) == sorted((3, *ids_of(text), 4) for text in sentences())


TABLES = {
    "csv:a.csv": 'label,text\n1,"a ""b"", c"\n0,d\n1,e\n0,good\n1,bad\n0,film\n',
    "csv:a.tsv": 'review\tlabel\na "b", c\t1\nd\t0\ne\t1\ngood\t0\nbad\t1\nfilm\t0\n',
    "csv:bare.tsv": 'a "b", c\t1\nd\t0\ne\t1\ngood\t0\nbad\t1\nfilm\t0\n',
    "csv:turned.csv": '1,"a ""b"", c"\n0,d\n1,e\n0,good\n1,bad\n0,film\n',
    "jsonl:a.jsonl": "\n".join(
        json.dumps({"sentence": t, "label": y})
        for t, y in [('a "b", c', 1), ("d", 0), ("e", 1), ("good", 0), ("bad", 1), ("film", 0)]
    )
    + "\n\n",
}


@pytest.mark.parametrize("spec", TABLES)
def test_tables_of_any_form_are_the_same_texts_and_labels(spec, text_models, tmp_path):
    kind, name = spec.split(":")
    (tmp_path / name).write_text(TABLES[spec])
    task = open_task(f"{kind}:{tmp_path / name}", text_models["classifier"])
    assert (task.kind, task.has_labels) == ("text-classification", True)
    batches = [batch for part in PARTS for batch in task.batches(part)]
    seen = {
        (tuple(ids[mask.bool()].tolist())[1:-1], label.item())
        for batch in batches
        for ids, mask, label in zip(batch.inputs["input_ids"], batch.mask, batch.labels, strict=True)
    }
    expected = {((*ids_of("a"), 2, *ids_of("b"), 2, *ids_of("c")), 1)}
    expected |= {(tuple(ids_of(t)), y) for t, y in [("d", 0), ("e", 1), ("good", 0), ("bad", 1), ("film", 0)]}
    assert seen == expected
    assert 0 <= evaluate(text_models["classifier"], task, "fit").value <= 100


def test_label_names_are_looked_up_in_the_networks_own(text_models, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"a b c,{y}\n" for y in ["bad", "Good"] * 6))
    task = open_task(f"csv:{tmp_path / 'a.csv'}", text_models["classifier"])
    assert task.class_index == {"Good": 0, "bad": 1}
    encoder = open_task(f"csv:{tmp_path / 'a.csv'}", text_models["encoder"])
    assert not encoder.has_labels and any("labels are not used" in note for note in encoder.notes)
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"a b c,{y}\n" for y in "zyx" * 6))
    many = open_task(f"csv:{tmp_path / 'a.csv'}", text_models["classifier"])
    assert not many.has_labels and any("3 classes, the network has 2 outputs" in note for note in many.notes)


def test_columns_can_be_named_and_empty_texts_are_left_out(text_models, tmp_path):
    (tmp_path / "a.csv").write_text("body,text,stars\n" + "a b,zzz,0\n" * 9 + " ,zzz,1\n")
    options = TaskOptions(text_column="body", label_column="stars")
    task = open_task(f"csv:{tmp_path / 'a.csv'}", text_models["classifier"], options)
    assert tokens(task) == [(3, 5, 6, 4)] * 9 and task.has_labels
    assert any("1 empty texts" in note for note in task.notes)
    with pytest.raises(DataError, match="no column 'bod'; found body, text, stars"):
        open_task(f"csv:{tmp_path / 'a.csv'}", text_models["classifier"], TaskOptions(text_column="bod"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("csv:a.csv", "", "is empty"),
        ("csv:a.csv", "text,label\n", "empty data set"),
        ("csv:a.csv", "p,q,r\n1,2,3\n", "no column that is known to hold data; found p, q, r"),
        ("csv:a.csv", "text,label\na,0\nb\n", "Row 3 of .* has 1 cells where the first has 2"),
        ("csv:a.csv", "text,label\na,0\nb,\nc,1\n", "1 of 3 samples of .* have no label, first sample 1"),
        ("csv:a.csv", "text,label\n" + "a,0\nb,7\n" * 3, "Labels run from 0 to 7"),
        ("csv:a.csv", b"text,label\n\xff\xfe,0\n", "cannot be read as text.*UTF-8"),
        ("jsonl:a.jsonl", '{"text": "a"}\n{"text"\n', "Line 2 of .* is not valid JSON"),
        ("jsonl:a.jsonl", '{"text": "a"}\n[1]\n', "Line 2 of .* is no JSON object"),
        ("jsonl:a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', "Line 2 of .* lacks label"),
        ("text:a.json", '{"a": 1}', "no column that is known to hold data; found a"),
        ("text:a.json", "[1, 2]", "should hold a list of texts"),
        ("text:a.json", "[", "not valid JSON"),
        ("text:a.json", "[]", "empty data set"),
        ("text:a.txt", " \n", "empty data set"),
    ],
)
def test_texts_that_cannot_be_used(name, content, message, text_models, tmp_path):
    kind, file = name.split(":")
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        open_task(f"{kind}:{tmp_path / file}", text_models["classifier"])


def test_a_network_without_a_tokenizer(tmp_path, text_models):
    (tmp_path / "a.json").write_text(json.dumps(sentences()))

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(len(WORDS), len(WORDS))

        def forward(self, input_ids):
            return self.table(input_ids)

    with pytest.raises(DataError, match="need a tokenizer, and Own does not name one. Pass --tokenizer"):
        open_task(f"text:{tmp_path / 'a.json'}", Own())
    with pytest.raises(DataError, match="holds no tokenizer that loads"):
        open_task(f"text:{tmp_path / 'a.json'}", Own(), TaskOptions(tokenizer=str(tmp_path)))
    folder = text_models["writer"].config._name_or_path
    task = open_task(f"text:{tmp_path / 'a.json'}", Own(), TaskOptions(tokenizer=folder, batch_size=1))
    assert evaluate(Own(), task).name == "perplexity"
    with pytest.raises(DataError, match="differ in length.*--batch-size 1"):
        evaluate(Own(), open_task(f"text:{tmp_path / 'a.json'}", Own(), TaskOptions(tokenizer=folder)))


# -- data sets of the datasets library


@pytest.fixture
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return datasets


def images_dataset(datasets, num=12, names=("cat", "dog", "eel")):
    images = [Image.new("RGB", (6, 6), (20 * i, 0, 255)) for i in range(num)]
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    columns = {"picture": images, "label": [i % len(names) for i in range(num)]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_parquet_images_keep_their_class_names(cache, tmp_path):
    images_dataset(cache).to_parquet(tmp_path / "a.parquet")
    task = open_task(f"parquet:{tmp_path / 'a.parquet'}", Net(**PLAIN))
    x, y = everything(task)
    red = ((x[:, 0, 0, 0] * 0.5 + 0.5) * 255 / 20).round().long()
    assert torch.equal(red % 3, y) and sorted(red.tolist()) == list(range(12))
    assert task.class_index == {"cat": 0, "dog": 1, "eel": 2}
    folder = open_task(f"parquet:{tmp_path}", Net(**PLAIN))
    assert folder.batches("fit").num_samples == 6
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="not readable as parquet"):
        open_task(f"parquet:{tmp_path / 'b.parquet'}", Net())
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no .parquet file"):
        open_task(f"parquet:{tmp_path / 'none'}", Net())


def test_a_saved_data_set_with_splits(cache, tmp_path):
    both = cache.DatasetDict(train=images_dataset(cache), validation=images_dataset(cache, 6))
    both.save_to_disk(tmp_path / "saved")
    task = open_task(f"hf:{tmp_path / 'saved'}", Net(**PLAIN), test_spec=f"hf:{tmp_path / 'saved'}#validation")
    assert [task.batches(part).num_samples for part in PARTS] == [8, 4, 6] and task.has_labels
    assert any("validation of hf:" in note and "so validation is drawn from train" in note for note in task.notes)
    with pytest.raises(DataError, match="is what hf:.* is fitted on, but a test needs data of its own"):
        open_task(f"hf:{tmp_path / 'saved'}", Net(**PLAIN), test_spec=f"hf:{tmp_path / 'saved'}#train")
    with pytest.raises(DataError, match="no split 'dev'; found train, validation"):
        open_task(f"hf:{tmp_path / 'saved'}#dev", Net(**PLAIN))


def test_the_splits_of_a_data_set_are_what_the_parts_are_drawn_from(cache, tmp_path):
    """Each red value is one image; those of train, validation and test end up in fit, validation and test."""
    whole = images_dataset(cache)
    splits = {"test": range(9, 12), "train": range(6), "validation": range(6, 9), "other": range(2)}
    cache.DatasetDict({name: whole.select(rows) for name, rows in splits.items()}).save_to_disk(tmp_path / "saved")
    task = open_task(f"hf:{tmp_path / 'saved'}", Net(**PLAIN))
    for part, name in zip(PARTS, ("train", "validation", "test"), strict=True):
        [batch] = task.batches(part)[:]
        red = ((batch.inputs[:, 0, 0, 0] * 0.5 + 0.5) * 255 / 20).round().long()
        assert sorted(red.tolist()) == list(splits[name]) and torch.equal(red % 3, batch.labels)
    assert any("fit from train, validation from validation, test from test" in note for note in task.notes)
    assert any("further splits, which are not used: other" in note for note in task.notes)
    alone = open_task(f"hf:{tmp_path / 'saved'}#train", Net(**PLAIN))
    assert sum(alone.batches(part).num_samples for part in PARTS) == 6


def test_a_test_split_whose_labels_are_hidden_is_left_out(cache, tmp_path, text_models):
    features = cache.Features({"sentence": cache.Value("string"), "label": cache.ClassLabel(names=["good", "bad"])})

    def split(start: int, stop: int, hidden: bool = False):
        labels = [-1 if hidden else k % 2 for k in range(start, stop)]
        texts = [text if k else "" for k, text in enumerate(sentences(stop)[start:])]  # the first of each is empty
        return cache.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)

    cache.DatasetDict(train=split(0, 9), validation=split(9, 15), test=split(15, 20, hidden=True)).save_to_disk(tmp_path / "s")
    task = open_task(f"hf:{tmp_path / 's'}", text_models["classifier"])
    assert any("#test are hidden (-1), so it is left out" in note for note in task.notes)
    num = {part: task.batches(part).num_samples for part in PARTS}
    assert num["fit"] == 8 and sorted(num.values())[:2] == [2, 3] and task.has_labels
    kept = [*sentences(15)[1:9], *sentences(15)[10:15]]
    assert tokens(task) == sorted((3, *ids_of(text), 4) for text in kept)


def test_local_text_data_sets_and_labels_that_are_missing(cache, tmp_path, text_models):
    table = cache.Dataset.from_dict({"sentence": sentences(9), "label": [0, 1, 1] * 3})
    table.save_to_disk(tmp_path / "saved")
    task = open_task(f"hf:{tmp_path / 'saved'}", text_models["classifier"])
    assert task.has_labels and tokens(task) == sorted((3, *ids_of(text), 4) for text in sentences(9))
    table = cache.Dataset.from_dict({"sentence": sentences(9), "label": [-1] * 9})
    table = table.cast_column("label", cache.ClassLabel(names=["good", "bad"]))
    table.save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(DataError, match="Labels run from -1 to -1, but classes from 0 to 1.*--no-labels"):
        open_task(f"hf:{tmp_path / 'unlabelled'}", text_models["classifier"])
    options = TaskOptions(labels=False)
    assert not open_task(f"hf:{tmp_path / 'unlabelled'}", text_models["classifier"], options).has_labels


def test_a_hub_data_set_that_cannot_be_had(cache):
    with pytest.raises(DataError, match="hf:nobody/nothing is no local folder, and the hub did not give it"):
        open_task("hf:nobody/nothing", Net())


# -- real weights and data


@pytest.mark.data
def test_deit_tiny_on_imagenet(data_root, tmp_path):
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("deit_tiny_patch16_224")
    weights = load_file(data_root / "weights" / "deit_tiny_patch16_224.safetensors")
    model.load_state_dict({name: x.float() for name, x in weights.items()})
    options = TaskOptions(num_validation=200)
    task = open_task(f"imagefolder:{data_root / 'images' / 'imagenet_train_1000'}", model, options)
    reference = predictions(model, task.batches("validation"))
    assert grade_of(reference, reference).value > 70 and not reference.notes
    classes = data_root / "images" / "imagenet_wnids.txt"
    options = TaskOptions(num_validation=40, classes=classes)
    few = open_task(f"imagefolder:{data_root / 'images' / 'imagenette_train_1000'}", model, options)
    assert set(few.class_index.values()) == {0, 217, 482, 491, 497, 566, 569, 571, 574, 701}
    whole = evaluate(model, few)
    assert whole.name == "top-1 accuracy" and whole.value < 90  # ten classes, but the head chooses among a thousand
    lines = classes.read_text().splitlines()
    ten = [line if k in few.class_index.values() else "" for k, line in enumerate(lines)]
    (tmp_path / "ten.txt").write_text("\n".join(ten))
    options = TaskOptions(num_validation=40, classes=tmp_path / "ten.txt")
    narrowed = open_task(f"imagefolder:{data_root / 'images' / 'imagenette_train_1000'}", model, options)
    among = evaluate(model, narrowed)
    assert among.name == "top-1 accuracy among 10 classes" and among.value > 95


@pytest.mark.data
def test_stories_have_the_published_perplexity(data_root):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(data_root / "weights" / "stories260k")
    task = open_task(f"text:{data_root / 'text' / 'tinystories_test.json'}", model, TaskOptions(num_validation=120))
    grade = evaluate(model, task)
    assert np.log(grade.value) == pytest.approx(1.40, abs=0.05)


@pytest.mark.parametrize("kind", ["npz", "csv", "jsonl", "text"])
def test_a_pipe_or_a_device_is_not_waited_for(kind, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(DataError, match="a pipe or a device"):
            open_task(f"{kind}:{path}", nn.Sequential(nn.Linear(4, 2)))


@pytest.mark.parametrize("name", ["csv", "text", "imagefolder", "json/anything"])
def test_readers_of_the_datasets_library_are_no_data_sets(name):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="names a reader of the datasets library"):
        open_task(f"hf:{name}", nn.Sequential(nn.Linear(4, 2)))
