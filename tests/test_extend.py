"""docs/extend.md from top to bottom: each file is written as it stands, each command runs, and what it shows is seen."""

import os
import re
import shlex
import sys
from pathlib import Path

import fresh
import pytest

import delayer.cli
import delayer.nas.strategies  # noqa: F401
from delayer.registry import _ALL

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extend.md").read_text()
BLOCK = re.compile(r"^(?:`(?P<name>[\w.]+)`[^\n]*:\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.S | re.M)
SECTIONS = {head: text for head, _, text in (part.partition("\n") for part in PAGE.split("\n## "))}
COMMAND = f"""
import sys
from delayer import cli
{fresh.WARM}
{fresh.SHORT_RACES}
sys.argv[0] = "delayer"
cli.main()
"""
REFUSED = "# ends with exit code 2"


def plain(text: str) -> str:
    """Without a table's lines and with single spaces."""
    return " ".join(re.sub(r"[│┃┏┓┗┛━┡┩╇╈─┌┐└┘├┤┬┴┼]", " ", text).split())


def shows(said: str, wanted: str) -> bool:
    """Whether one line of a page, whose … stand for anything, was said."""
    return re.search(".*?".join(re.escape(plain(part)) for part in wanted.split("…")), plain(said)) is not None


def test_what_is_shown_is_looked_for():
    assert shows("┃ a ┃  b ┃", "a │ b") and shows("one two three", "one … three") and not shows("one two", "two … one")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the scripts of a clone, and the study that the page begins with."""
    pytest.importorskip("timm")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("clone")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    play(next(iter(SECTIONS.values())), folder)
    return folder


def play(section: str, place: Path) -> int:
    """Do what a section says; the number of commands."""
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    known = {"DELAYER_FACTORY": "scripts.digits_vit:digits_vit", "PYTHONPATH": paths, "COLUMNS": "200"}
    said, ran = "", 0
    for block in BLOCK.finditer(section):
        if block["name"]:
            (place / block["name"]).write_text(block["text"])
        elif block["kind"] == "bash":
            said = ""
            for line in block["text"].splitlines():
                words = shlex.split(line, comments=True)
                if words[0] == "export":
                    assert words[1] == "=".join(("DELAYER_FACTORY", known["DELAYER_FACTORY"]))
                    continue
                assert words[0] == "delayer", line
                done = fresh.run([sys.executable, "-c", COMMAND, *words[1:]], cwd=place, env=os.environ | known)
                assert done.returncode == (2 if REFUSED in line else 0), f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
                said += done.stdout + done.stderr
                ran += 1
        elif block["kind"] == "text":
            missing = [line for line in block["text"].splitlines() if not shows(said, line)]
            assert not missing, f"{missing} in\n{said}"
        else:
            assert block["kind"] in ("toml",), block["kind"]
    return ran


KINDS = [head for head in SECTIONS if head.startswith(("A ", "An ")) and head != "A package of plug-ins"]
SLOW = {"A search strategy", "A schedule"}  # they train networks


@pytest.mark.parametrize("head", [pytest.param(head, marks=[pytest.mark.slow] * (head in SLOW)) for head in KINDS])
def test_a_plug_in_is_one_file(head, place):
    assert play(SECTIONS[head], place) >= 1


def test_each_kind_of_registry_has_its_section():
    heads = {re.sub(r"^An? (published )?", "", head) for head in KINDS}
    kinds = {one.kind.replace("site metric", "metric of activations") for one in _ALL if one.package.startswith("delayer.")}
    assert kinds == heads


def test_every_file_is_as_the_linter_wants_it(tmp_path):
    import subprocess

    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    for block in BLOCK.finditer(PAGE):
        if block["kind"] == "python":
            (tmp_path / block["name"]).write_text(block["text"])
    for command in (["check", "--ignore", "D102"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, "--config", ROOT / "pyproject.toml", tmp_path], capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr
