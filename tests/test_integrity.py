"""A saved folder is the one that was saved, or it is said which file is not; a kill leaves the old network or the new one."""

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from planted import BY_NAME, answer, gap, normal
from safetensors.torch import load_file, save_file
from test_store import OWN, original, saved

from delayer.errors import DelayerWarning, ModelError, WeightsError
from delayer.families import chain_of
from delayer.store import Made, digest_of, load, read_artefact, recover_
from delayer.store.closed import check_configuration
from delayer.store.integrity import seal
from delayer.store.limits import no_larger_than

X = normal(3, 8)()


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("own_networks", None)
    return tmp_path


def written(place: Path, *, dropped: str = "1", **more) -> tuple[Path, torch.Tensor]:
    torch.manual_seed(0)
    small, _ = saved(chain_of(load("own_networks:make"), X), place / "cut", X, dropped=[dropped], mapped=["3"], **more)
    return place / "cut", answer(small, X)


# -- every bit -----------------------------------------------------------------------------------------------------------


def test_every_flipped_or_swapped_bit_is_found(own):
    folder, _ = written(own)
    draw, found, cases = random.Random(0), 0, 0
    for name, number in (("model.safetensors", 320), ("plan.json", 60), ("delayer.json", 160)):
        path = folder / name
        whole = path.read_bytes()
        for case in range(number):
            data = bytearray(whole)
            if case % 4 == 3:  # two bytes change places
                one, other = draw.sample(range(len(data)), 2)
                if data[one] == data[other]:
                    other = next(i for i in range(len(data)) if data[i] != data[one])
                data[one], data[other] = data[other], data[one]
            else:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            cases += 1
            try:
                load(str(folder))
            except ModelError as error:
                found += name in str(error) or "cut" in str(error)
            path.write_bytes(whole)
    assert found == cases == 540
    assert load(str(folder))


def test_a_file_that_changed_came_or_went_is_named(own):
    folder, expected = written(own)
    digest = digest_of(folder)
    kept = (folder / "model.safetensors").read_bytes()
    weights = load_file(folder / "model.safetensors")
    save_file({key: value * 1.5 for key, value in weights.items()}, str(folder / "model.safetensors"))
    for read in (digest_of, lambda folder: load(str(folder))):
        with pytest.raises(
            WeightsError,
            match="is not as it was saved: model.safetensors was changed. Bring the saved files "
            "back, or allow it.*allow_changed=True.*--allow-changed",
        ):
            read(folder)
    with pytest.warns(DelayerWarning, match="model.safetensors was changed. It is opened all the same, as asked"):
        assert gap(answer(load(str(folder), allow_changed=True), X), expected) > 1e-3
    (folder / "model.safetensors").write_bytes(kept)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="config.json was added"):
        load(str(folder))
    (folder / "config.json").unlink()
    for name in ("model.onnx", "README.md", ".note.json"):
        (folder / name).write_text("what people put beside a network")
    assert digest_of(folder) == digest
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="model.safetensors is gone"):
        load(str(folder))


def test_the_weights_of_another_network_are_found(own):
    one, _ = written(own)
    shutil.move(one, own / "one")
    other, _ = written(own, dropped="2")
    assert digest_of(own / "one") != digest_of(other)
    shutil.copy(own / "one" / "model.safetensors", other)
    with pytest.raises(WeightsError, match="model.safetensors was changed"):
        load(str(other))


def test_an_older_folder_opens_and_is_said_to_be_unproven(own):
    folder, expected = written(own)
    record = json.loads((folder / "delayer.json").read_text())
    old = {key: value for key, value in record.items() if key not in ("files", "hash", "lineage", "notes")} | {"format": 1}
    (folder / "delayer.json").write_text(json.dumps(old))
    with pytest.warns(DelayerWarning, match="saved by an earlier version without hashes, so that nothing proves it intact"):
        assert torch.equal(answer(load(str(folder)), X), expected)
    with pytest.warns(DelayerWarning, match="without hashes"):
        assert len(digest_of(folder)) == 64


def test_lineage_is_kept_and_decides_nothing(own):
    lineage = (Made(stage="cut", key="a"), Made(stage="tune", key="b"))
    folder, _ = written(own, lineage=lineage)
    assert read_artefact(folder).lineage == lineage
    digest = digest_of(folder)
    folder, _ = written(own)
    assert digest_of(folder) == digest and read_artefact(folder).lineage == ()


# -- kills -----------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone: nothing that it would have done later happens either."""


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link", "shutil.copyfile"}
_kill = {"at": 0, "seen": 0, "on": False}


def _operation(*_) -> None:
    if _kill["on"]:
        _kill["seen"] += 1
        if _kill["seen"] >= _kill["at"]:
            raise Killed


def _hook(event: str, arguments: tuple) -> None:
    if event in _CHANGES or (
        event == "open" and len(arguments) > 2 and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        _operation()


sys.addaudithook(_hook)


def killed_at(number: int, do) -> bool:
    """Whether a call was killed at its number-th change of the disk."""
    _kill.update(at=number, seen=0, on=True)
    try:
        do()
    except Killed:
        return True
    finally:
        _kill["on"] = False
    return False


def test_a_kill_at_any_change_of_the_disk_leaves_the_old_or_the_new_network(own, monkeypatch):
    _fsync, writes = os.fsync, sys.modules["delayer.store.ordinary"].save_file

    def half(tensors, path, **more):  # a kill in the middle of the weights
        if _kill["on"]:
            Path(path).write_bytes(b"half of the weights")
        _operation()
        writes(tensors, path, **more)

    monkeypatch.setattr("delayer.store.ordinary.save_file", half)
    monkeypatch.setattr(os, "fsync", lambda number: None)
    chain = chain_of(load("own_networks:make"), X)
    folder = own / "cut"

    def write(dropped: str) -> torch.Tensor:
        return answer(saved(chain, folder, X, dropped=[dropped], mapped=["3"])[0], X)

    new, old = write("2"), write("1")
    ends, operations, said = {"old": 0, "new": 0}, 0, set()
    while killed_at(operations + 1, lambda: write("2")):
        operations += 1
        said.add(recover_(folder).partition("; ")[2])
        digest_of(folder)
        found = answer(load(str(folder)), X)
        which = "old" if torch.equal(found, old) else "new"
        assert which == "old" or torch.equal(found, new)
        assert not [path for path in own.iterdir() if path.name.startswith(".cut")], "nothing is left beside it"
        ends[which] += 1
        shutil.rmtree(folder)
        write("1")
    assert operations > 20 and min(ends.values()) > 0 and sum(ends.values()) == operations
    assert "the finished new one was put in its place." in said
    assert torch.equal(answer(load(str(folder)), X), new)


def test_what_a_kill_left_half_done_is_not_brought_back(own):
    folder, expected = written(own)
    new, old = own / ".cut.new", own / ".cut.old"
    shutil.copytree(folder, new)
    (new / "model.safetensors").write_bytes(b"half")
    shutil.move(folder, old)
    assert "the one before was put in its place" in recover_(folder)
    assert torch.equal(answer(load(str(folder)), X), expected) and not new.exists() and not old.exists()
    shutil.move(folder, new)
    (new / "plan.json").unlink()
    assert recover_(folder) == "" and not folder.exists()


# -- size ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 num_hidden_layers, where 10,000 is the most that is believed"),
        ({"num_hidden_layers": 9_999}, "describes a network of more than .* modules and tensors, while its weights file holds"),
        ({"vocab_size": 10**12}, "describes a network of more than .* elements, while its weights file holds"),
        ({"hidden_size": 10**8}, "describes a network of more than .* elements|cannot be rebuilt|could not be rebuilt"),
        ({"num_labels": 10**10, "id2label": None}, "asks for 10000000000 num_labels, where 10,000"),
    ],
)
def test_a_configuration_larger_than_its_weights_is_refused_before_it_is_built(change, message, tmp_path):
    saved(original("bert", tmp_path), tmp_path / "cut", BY_NAME["bert"].inputs(), mapped=["1"])
    record = json.loads((tmp_path / "cut" / "delayer.json").read_text())
    record["source"]["config"] |= change
    (tmp_path / "cut" / "delayer.json").write_text(json.dumps(record))
    seal(read_artefact(tmp_path / "cut"), tmp_path / "cut")
    with pytest.raises(ModelError, match=message):
        load(str(tmp_path / "cut"))


def test_the_limit_is_lifted_again():
    with pytest.raises(ModelError, match="describes a network of more than 10,000,000 elements"):
        with no_larger_than({}, 1, "a file"), torch.device("meta"):
            torch.nn.Linear(10_000, 10_000)
    with warnings.catch_warnings(), torch.device("meta"):
        torch.nn.Linear(10_000, 10_000)


def test_a_saved_folder_without_its_record_is_not_taken_for_another_kind(tmp_path):
    """An ordinary checkpoint beside a plan: without the hashes nothing would prove it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ModelError, match="holds a plan and no delayer.json"):
        load(str(tmp_path))
    assert load(str(tmp_path), allow_changed=True).config.n_layer == 2


@pytest.mark.parametrize("word", ["Infinity", "-Infinity", "NaN"])
def test_numbers_without_a_word_in_json_are_numbers(word):
    check_configuration({"time_step_limit": [0.0, {"__float__": word}]}, "config.json")
    with pytest.raises(ModelError):
        check_configuration({"time_step_limit": {"__float__": "os.system"}}, "config.json")
