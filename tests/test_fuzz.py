"""Damaged files end in the same answer or in one sentence: hundreds of cases drawn from a seed.

Thousands: `python benchmarks/fuzz.py --cases 5000 --seed 0`.
"""

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from delayer.errors import DelayerError
from tests import fuzzing
from tests.fuzzed_folders import READERS, Fuzz

ROOT = Path(__file__).parent.parent
BAD = ("traceback", "hang", "changed", "import")
CASES = {"load": 120, "winner": 50, "search's page": 50, "tune, stopped": 20, "cut": 20, "check": 10, "report": 8, "tune": 10}
"""How often each reader is asked; those left out take seconds a case."""
SHARE = 0.4
"""Of that in the quick suite."""


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory) -> Fuzz:
    pytest.importorskip("optuna")
    pytest.importorskip("plotly")
    before = os.getcwd()
    os.chdir(ROOT)
    try:
        yield Fuzz.prepared(tmp_path_factory.mktemp("fuzz"), only=tuple(CASES))
    finally:
        os.chdir(before)


@pytest.mark.parametrize("share", [SHARE, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", CASES)
def test_damage_is_refused_in_one_sentence_or_changes_nothing(fuzz, reader, share):
    found = [fuzz.case(number, only=reader) for number in range(round(CASES[reader] * share))]
    assert not [one for one in found if one.what in BAD]
    assert sum(one.what == "refused" for one in found) + sum(one.what in ("same", "said") for one in found) > 0


@pytest.mark.slow
@pytest.mark.parametrize("reader", sorted(READERS.keys() - CASES.keys()))
def test_so_it_is_in_what_takes_longer(fuzz, reader):
    fuzz.expect(reader)
    assert not [one for number in range(12) if (one := fuzz.case(number, only=reader)).what in BAD]


# The machine itself


@pytest.mark.parametrize("name", ["a.json", "a.safetensors", "a.jsonl"])
def test_a_seed_draws_the_same_damage_and_all_kinds_of_it(tmp_path, name):
    import torch
    from safetensors.torch import save

    whole = {
        "a.json": b'{"a": [1, 2.5, "text"], "b": {"c": null}}',
        "a.jsonl": b'{"a": 1}\n{"b": [2]}\n',
        "a.safetensors": save({"one": torch.ones(4), "two": torch.zeros(3)}),
    }[name]
    path, seen = tmp_path / name, Counter()
    for number in range(200):
        both = []
        for _ in range(2):
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(whole)
            done = fuzzing.damage_(path, Random(number))
            regular = path.is_file() and path.stat().st_size < 2**30
            both.append((done, path.read_bytes() if regular else None))
        assert both[0] == both[1]
        seen[both[0][1] == whole] += 1
    assert seen[True] < 10  # damage damages


OUTCOMES = {
    "same": (lambda: ([1.00001], ""), "same"),
    "changed": (lambda: ([2.0], ""), "changed"),
    "said": (lambda: ([2.0], "a file was changed"), "said"),
    "slow": (lambda: _wait(), "hang"),
    "swallowed": (lambda: _swallow(), "hang"),
    "sentence": (lambda: _raise(DelayerError("One sentence.")), "refused"),
    "two lines": (lambda: _raise(DelayerError("One line.\nAnother.")), "traceback"),
    "fault": (lambda: _raise(KeyError("x")), "traceback"),
    "import": (lambda: (__import__("this"), [1.0])[1:] and ([1.0], ""), "import"),
    "command": (lambda: (os.system("true"), ([1.0], ""))[1], "import"),
}


def _raise(error: Exception):
    raise error


def _wait():
    while True:  # in Python: a loop in C would not hear the signal
        pass


def _swallow():
    while True:
        try:
            _wait()
        except Exception:
            continue


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_fuzzer_sees_what_it_should(name):
    import sys

    read, expected = OUTCOMES[name]
    sys.modules.pop("this", None)
    found = fuzzing.outcome(read, ([1.0], ""), case=name, editable=False, seconds=0.3)
    assert found.what == expected, found
