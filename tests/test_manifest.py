"""Help and wrong options are answered without an import of torch, and as the command line itself would."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import delayer_command
from delayer import cli
from delayer.cli.manifest import FILE, manifest

ROOT = Path(__file__).parent.parent


def test_the_file_says_what_the_command_line_is():
    assert json.loads(FILE.read_text("utf-8")) == manifest(), "write it anew: python -m delayer.cli.manifest"


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["run", "--help"], ["nas", "-h"], ["run", "x", "--remov"]])
def test_an_answer_imports_nothing(words):
    code = (
        f"import sys, delayer_command; code = delayer_command.answered({words!r});"
        "print(code, len({'torch', 'pydantic', 'typer', 'delayer', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr.split()[-2:] == ["2" if words[-1] == "--remov" else "0", "0"], done.stderr


def itself(monkeypatch, capsys, words: list[str]) -> tuple[int, str, str]:
    """What the command line says, when it is not answered before."""
    monkeypatch.setattr(sys, "argv", ["delayer", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return (stop.value.code or 0, *capsys.readouterr())


@pytest.mark.parametrize(
    "words",
    [
        ["run", "timm:x", "--remov", "blocks=1"],
        ["plan", "timm:x", "--data", "--remove", "--nothing"],  # the second is the value of the first
        ["check", "study", "-x"],
        ["runn"],
        ["--nonsense"],
        ["list", "--foo=3"],
        ["nas", "--seedz", "-3"],
    ],
)
def test_a_wrong_word_is_refused_as_by_the_command_line_itself(words, monkeypatch, capsys):
    code, out, err = itself(monkeypatch, capsys, words)
    assert delayer_command.answered(words) == code == 2 and not out
    at_once = capsys.readouterr().err
    wrong = re.search(r"No such (?:option|command):? ['\"]?(-*\w+)", at_once)
    assert wrong and wrong[1] in err.splitlines()[-1], err
    usage, same = (text.splitlines()[0].partition("delayer")[2] for text in (at_once, err))
    assert usage == same


def test_near_words_are_named(capsys):
    assert delayer_command.answered(["run", "timm:x", "--remov", "blocks=1"]) == 2
    assert "Did you mean --remove" in capsys.readouterr().err
    assert delayer_command.answered(["comparee"]) == 2
    assert "Did you mean compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["run", "timm:x", "--data", "digits", "--remove", "blocks=1"],
        ["run", "timm:x", "--data", "--help"],  # a value
        ["run", "timm:x", "--", "--help"],
        ["run", "timm:x", "--no-labels", "--mean", "-1", "--seed=-1"],
        ["plan", "timm:x", "--max-drop", "-0.5"],
        ["list", "metrics"],
    ],
)
def test_what_asks_for_work_is_left_to_the_command_line(words):
    assert delayer_command.answered(words) is None


def test_help_lists_options_by_subject(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert delayer_command.answered(["run", "-h"]) == 0
    text = capsys.readouterr().out
    titles = re.findall(r"^(\w.*):$", text, re.M)
    assert titles[:4] == ["Arguments", "Network", "Data", "Budget: how much goes (one of them)"] and titles[-1] == "Options"
    assert "Output" in titles and text.index("--remove") < text.index("--method") < text.index("--batch-sizes")


def test_a_narrow_terminal_and_a_missing_file_are_left_to_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")
    assert delayer_command.answered(["--help"]) is None
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(delayer_command, "MANIFEST", tmp_path / "none.json")
    assert delayer_command.answered(["--help"]) is None
