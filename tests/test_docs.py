"""Every example in the README and the docs runs."""

import os
import re
import shlex
import sys
from pathlib import Path

import fresh
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("scripts/", "pip ", "accelerate ")  # the environment's own commands, and those that need a launcher


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.S | re.M)):
            found.append((f"{page.name}-{number}", text))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder like a fresh clone: the scripts, and a few photos of anybody's."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    return folder


def run(command: list[str], place: Path) -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(place), os.environ.get("PYTHONPATH", "")])
    done = fresh.run(command, cwd=place, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.timeout(1200)
def test_every_example_runs_in_the_order_of_the_page(place, monkeypatch):
    """Commands first, since Python examples open what they left behind; photos stand for the reader's own data."""
    pytest.importorskip("timm")
    pytest.importorskip("sklearn")
    ran = 0
    for _, text in blocks("bash"):
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if not words or line.startswith(ELSEWHERE) or "photos/" in line:
                continue
            if words[1:2] == ["nas"]:
                pytest.importorskip("optuna")
            if words[0] == "export":
                name, _, value = words[1].partition("=")
                monkeypatch.setenv(name, value)
                continue
            assert words[0] == "delayer", f"an example that no test runs: {line}"
            extra = (
                ["--no-onnx", "--effort", "2", "--seconds", "0.3"]
                if words[1] == "run"
                else (
                    ["--no-onnx", "--seconds", "0.3"]
                    if words[1] == "check"
                    else (["--effort", "2"] if words[1] == "plan" else [])
                )
            )
            run([sys.executable, "-m", "delayer.cli", *words[1:], *extra], place)
            ran += 1
    for _, text in blocks("python"):
        run([sys.executable, "-c", text], place)
        ran += 1
    assert ran > 10


def test_the_pages_show_only_options_that_exist():
    import typer

    from delayer.cli import app

    known = {
        option
        for command in typer.main.get_command(app).commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert "--remove" in known
    for page in PAGES:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text()):
            assert option in known | {"--choose", "--cases"}, f"{page.name} shows {option}, which no command knows"
