"""Files that anybody may have touched: read whole and bounded, or refused in one sentence that names the file."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from delayer.cutting import read_plan
from delayer.errors import DelayerError, ModelError, NasError, PlanError, StudyError
from delayer.families import chain_from_facts, chain_of
from delayer.report import render
from delayer.study import (
    ChainInfo,
    Proof,
    Record,
    Scores,
    Sites,
    as_lines,
    read_bytes,
    read_json,
    read_record,
    sync_folder,
    whole_lines,
    write_atomically,
)
from delayer.tuning.checkpoint import read_checkpoint, save_checkpoint
from tests import planted_studies


class Small(Record):
    number: int
    name: str = ""
    share: float = 0.0
    inside: dict[str, list] = {}


def message(path: Path, kind=Small) -> str:
    """The one sentence, found within a second."""
    begin = time.perf_counter()
    with pytest.raises(StudyError) as error:
        read_record(path, kind)
    assert time.perf_counter() - begin < 2 and "\n" not in str(error.value) and str(path) in str(error.value)
    assert len(str(error.value)) < 1000 + len(str(path))
    return str(error.value)


TEXTS = {
    "cut short": ('{"number": 1', "Expecting"),
    "twice": ('{"number": 1, "number": 2}', "'number' occurs twice"),
    "unknown": ('{"number": 1, "nmae": "a"}', "nmae"),
    "missing": ("{}", "number: Field required"),
    "a number in quotes": ('{"number": "1"}', "number: Input should be a valid integer"),
    "true for one": ('{"number": true}', "number: Input should be a valid integer"),
    "not a number": ('{"number": 1, "share": NaN}', "share: Input should be a finite number"),
    "infinite": ('{"number": 1, "share": 1e999}', "share: Input should be a finite number"),
    "thousands of digits": ('{"number": ' + "9" * 5000 + "}", "digits"),
    "deep": ("[" * 100_000 + "]" * 100_000, "nested"),
    "deep, still parsed": ('{"number": 1, "inside": {"a": ' + "[" * 70 + "]" * 70 + "}}", "nested more than 64 deep"),
    "long": ('{"number": 1, "name": "' + "y" * 1_000_001 + '"}', "name: String should have at most"),
    "empty": ("", "Expecting value"),
    "no object": ("[1]", "Input should be an object"),
    "many keys twice": ("{" + ",".join('"a":1' for _ in range(100_000)) + "}", "'a' occurs twice"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_damaged_text_is_refused_with_its_place(tmp_path, case):
    text, said = TEXTS[case]
    (tmp_path / "a.json").write_text(text)
    assert said in message(tmp_path / "a.json")


def test_what_is_no_ordinary_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{}")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2 * 2**30)  # of zeros, and none of them on the disk
    for name, said in {
        "pipe": "pipe or a device",
        "folder": "Is a directory",
        "loop": "symbolic links",
        "bytes": "can't decode",
        "large": "2,147,483,648 bytes",
        "nothing": "No such file",
    }.items():
        assert said in message(tmp_path / name)
    with pytest.raises(StudyError, match="null byte"):
        read_bytes("a\0b")


def test_what_may_be_infinite_is_written_and_read_again(tmp_path):
    proof = Proof(max_abs_difference=float("inf"), max_abs_output=1.0, num_inputs=2, loader="delayer.load", passed=False)
    write_atomically(tmp_path / "proof.json", proof.model_dump_json())
    assert read_record(tmp_path / "proof.json", Proof) == proof
    assert read_json(tmp_path / "proof.json")["max_abs_difference"] == float("inf")


def test_a_folder_is_synced_after_a_rename(tmp_path, monkeypatch):
    """The file first, the rename, then the folder that holds its name."""
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr("os.replace", lambda one, two: (done.append("renamed"), replace(one, two)))
    write_atomically(tmp_path / "new" / "a.json", "{}")
    assert done[1:] == ["renamed", str(tmp_path / "new")] and "a.json" in done[0]
    done.clear()
    sync_folder(tmp_path)
    assert done == [str(tmp_path)]


def test_a_damaged_line_is_told_from_a_whole_one(tmp_path):
    values = [{"number": i, "text": "é"} for i in range(4)]
    lines = as_lines(values).encode().splitlines(keepends=True)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(lines))
    assert list(whole_lines(path)) == values
    path.write_bytes(lines[0] + lines[1].replace(b"1", b"7", 1) + b"{}\n" + lines[3] + lines[2][:-5])
    assert list(whole_lines(path)) == [values[0], None, None, values[3]]


# Records that contradict themselves


def contradiction(kind: type[BaseModel], record: BaseModel, **changed) -> str:
    with pytest.raises(ValidationError) as error:
        kind.model_validate(record.model_dump() | changed)
    return str(error.value)


def test_records_do_not_contradict_themselves(tmp_path):
    study = planted_studies.vit(tmp_path / "s")
    chain, scores, sites = study.read("study").chain, study.read("scores"), study.read("sites")
    assert "12 blocks have 12 points" in contradiction(ChainInfo, chain, points=chain.points[1:])
    assert "not numbered" in contradiction(ChainInfo, chain, blocks=chain.model_dump()["blocks"][::-1])
    assert "no runs" in contradiction(ChainInfo, chain, segments=((0, 13),))
    ragged = scores.scores[0].model_dump() | {"values": [[1.0], [1.0, 2.0]]}
    assert "needs a square of 13" in contradiction(Scores, scores, scores=[ragged])
    assert "twice in the ranking" in contradiction(Scores, scores, ranking=[scores.ranking[0]] * 2)
    assert "does not hold each" in contradiction(Sites, sites, ranking=sites.ranking[1:])


def test_a_report_leaves_out_what_is_damaged_and_says_so(tmp_path):
    study = planted_studies.vit(tmp_path / "s")
    study.path("scan.json").write_text("{ broken")
    results = json.loads(study.path("results.json").read_text())
    results["edits"][0]["spans"] = [[50, 60]]
    study.path("results.json").write_text(json.dumps(results))
    page = render(study.folder).read_text()
    assert "Left out here" in page and "scan.json is not a valid Scan" in page
    assert "results.json tells of an edit up to block 59, and the network has 12 blocks" in page
    assert "candidates" in page and "Linear CKA" in page
    study.path("study.json").write_text("{ broken")
    with pytest.raises(StudyError, match="study.json is not a valid StudyInfo"):
        render(study.folder)


# Plans, chains and checkpoints

EDITS = {
    "span out of all bounds": ({"edit": "drop_span", "start": 0, "stop": 10**9}, "stop"),
    "empty span": ({"edit": "drop_span", "start": 4, "stop": 4}, "4:4 is empty"),
    "text": ({"edit": "drop_span", "start": "1", "stop": 2}, "start"),
    "rank": ({"edit": "replace_span", "start": 1, "stop": 2, "operator": "low_rank", "rank": 10**12}, "rank"),
    "rank of none": (
        {"edit": "replace_span", "start": 1, "stop": 2, "operator": "affine", "rank": 3},
        "operator affine has no option rank",
    ),
    "ridge": ({"edit": "replace_span", "start": 1, "stop": 2, "ridge": float("nan")}, "ridge"),
    "sweeps": ({"edit": "resolve_block", "block": 1, "sweeps": 10**9}, "sweeps"),
    "features": ({"edit": "linearise", "site": "a", "num_features": 10**15}, "num_features"),
    "shape": ({"edit": "fuse", "path": "", "layers": ["a"], "shape": [10**6, 10**6]}, "numbers"),
    "hostile": ({"edit": "os:system"}, "There is no edit 'os:system'"),
    "no object": (3, "an edit is an object"),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_plan_is_bounded_before_anything_is_built(tmp_path, case):
    edit, said = EDITS[case]
    plan = {"format": 1, "model": "m", "model_hash": "", "num_blocks": 8, "edits": [edit]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(PlanError, match="plan.json is not a valid Plan") as error:
        read_plan(tmp_path / "plan.json")
    assert said in str(error.value)


def chain():
    torch.manual_seed(0)
    return chain_of(
        nn.Sequential(nn.Linear(4, 8), *(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4))),
        torch.randn(2, 4),
        blocks=r"[1-4]",
    )


FACTS = {
    "width": (lambda b: b.update(in_width=2**40), "out of all bounds"),
    "negative": (lambda b: b.update(inlet=-1, outlet=0), "after point"),
    "path twice": (lambda b: b.update(path="2"), "the same path"),
    "unknown key": (lambda b: b.update(hostile=1), "blocks.0.hostile"),
    "missing key": (lambda b: b.pop("removable"), "removable"),
    "text": (lambda b: b.update(returns="0"), "returns"),
    "nothing": (lambda b: b.clear(), "blocks.0"),
}


@pytest.mark.parametrize("case", FACTS)
def test_facts_of_a_chain_are_bounded(case):
    spoil, said = FACTS[case]
    whole = chain()
    facts = whole.facts()
    assert chain_from_facts(whole.model, json.loads(json.dumps(facts))).blocks == whole.blocks
    spoil(facts["blocks"][0])
    with pytest.raises(ModelError, match="delayer.json") as error:
        chain_from_facts(whole.model, facts)
    assert said in str(error.value)


def test_every_bit_of_a_checkpoint_counts(tmp_path):
    path = tmp_path / "c.safetensors"
    tensors = {"now a": torch.arange(6.0).reshape(2, 3), "best a": torch.ones(2, 3, dtype=torch.bfloat16)}
    save_checkpoint(path, tensors, Small(number=3))
    whole = path.read_bytes()
    found, record = read_checkpoint(path, Small)
    assert record == Small(number=3) and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found, record = read_checkpoint(path, Small)
        except DelayerError as error:
            assert "Delete it to begin again" in str(error)
        else:  # a space in the header
            assert record == Small(number=3) and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    path.unlink()
    assert read_checkpoint(path, Small) is None


def test_a_changed_line_of_a_searchs_journal_is_found(tmp_path):
    pytest.importorskip("optuna")
    from delayer.nas.storage import journal_of

    path = tmp_path / "trials.journal"
    logs = [{"op_code": 4, "params": {"a": (1, 2)}, "at": f"t{i}"} for i in range(3)]
    journal_of(path).append_logs(logs)
    again = [{**log, "params": {"a": [1, 2]}} for log in logs]
    assert list(journal_of(path).read_logs(0)) == again and list(journal_of(path).read_logs(2)) == again[2:]
    text = path.read_text()
    path.write_text(text.replace("t1", "t7"))
    with pytest.raises(NasError, match="Line 2 of .*trials.journal was changed"):
        list(journal_of(path).read_logs(0))
    path.write_text("".join(line.partition(',"crc"')[0] + "}\n" for line in text.splitlines()))  # of an earlier version
    assert list(journal_of(path).read_logs(0)) == again


def test_options_of_a_study_that_do_not_do_are_named(tmp_path):
    from delayer.cli.opening import reopened
    from delayer.progress import Reporter

    study = planted_studies.vit(tmp_path / "s")
    info = json.loads(study.path("study.json").read_text())
    info["asked"]["options"]["num_fit"] = -3
    study.path("study.json").write_text(json.dumps(info))
    with pytest.raises(StudyError, match="its seal no longer fits"):
        reopened(study.folder, Reporter(quiet=True))
    study.path("study.json").write_text(json.dumps(info | {"seal": ""}))
    with pytest.raises(StudyError, match="study.json states options that do not do: num_fit"):
        reopened(study.folder, Reporter(quiet=True))
