"""Every example in the README and the docs runs, in the order of the page.

Examples that speak of the same folders make one road, such as a study that is scored, planned, cut and tuned; roads know
nothing of one another, so workers share them. The commands of a road run in one process, which imports what they need once,
but for the last, which has a process of its own: there nothing is remembered that the folder does not hold. Python examples
have a process each.
"""

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import fresh
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("scripts/", "pip ", "accelerate ")  # the environment's own commands, and those that need a launcher
QUICK = {
    "run": ("--no-onnx", "--effort", "2", "--seconds", "0.1"),
    "check": ("--no-onnx", "--seconds", "0.1"),
    "shrink": ("--no-onnx", "--seconds", "0.1", "--epochs", "1"),
    "compare": ("--epochs", "1"),
    "plan": ("--effort", "2"),
    "nas": ("--workers", "1", "--trials", "2", "--keep", "1"),
    "--data": ("--num-fit", "64", "--num-validation", "48", "--num-test", "48"),
}
"""Put behind an example so that it takes seconds: by its command, or by an option that it has."""
QUICK_PYTHON = {
    '"digits", model)': '"digits", model, delayer.tasks.TaskOptions(num_fit=64, num_validation=48, num_test=48))',
    "effort=4": "effort=2",
}
"""The same in Python."""
ONE_PROCESS = f"""
import json, sys
from delayer import cli
{fresh.WARM}
{fresh.SHORT_RACES}
for words in json.loads(sys.argv[1]):
    sys.argv = ["delayer", *words]
    print(*sys.argv, file=sys.stderr)
    cli.main()
"""


@dataclass(frozen=True)
class Example:
    """A command line or a Python block of a page."""

    number: int
    page: str
    kind: str
    text: str
    environment: tuple[tuple[str, str], ...] = ()
    """What its page exported before it."""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def asked(self) -> list[str]:
        """What the command line is given, with smaller numbers last, which win."""
        words = self.words[1:]
        return [*words, *(extra for key, more in QUICK.items() if key in (words[0], *words) for extra in more)]


def examples() -> list[Example]:
    found = []
    for page in PAGES:
        if page.name == "extend.md":  # test_extend.py runs that one
            continue
        exported: dict[str, str] = {}
        for kind, block in re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), re.S | re.M):
            for text in block.splitlines() if kind == "bash" else [block]:
                if text.startswith("export "):
                    exported |= dict([text.removeprefix("export ").strip().split("=", 1)])
                elif text.strip() and not text.startswith(ELSEWHERE) and "photos/" not in text:  # photos are the reader's own
                    found.append(Example(len(found), page.name, kind, text, tuple(exported.items())))
    return found


def roads(given: list[Example]) -> dict[str, list[Example]]:
    """Examples by the folders that they have in common; those that name none, by their page."""
    made = {name for one in given if one.kind == "bash" for name in re.findall(r"--out (\S+)", one.text)}
    together: list[tuple[set[str], list[Example]]] = []
    for one in given:
        names = set(re.findall(r"[\w-]+", one.text)) & made or {one.page}
        touched = [road for road in together if road[0] & names]
        together = [road for road in together if road not in touched]
        together.append((names.union(*(road[0] for road in touched)), [*(e for road in touched for e in road[1]), one]))
    return {"+".join(sorted(names)): sorted(road, key=lambda one: one.number) for names, road in together}


ROADS = roads(examples())


def run(kind: str, what: str, arguments: list[str], example: Example, place: Path) -> None:
    paths = os.pathsep.join([str(ROOT / "src"), str(place), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths} | dict(example.environment)
    done = fresh.run([sys.executable, kind, what, *arguments], cwd=place, env=environment)
    assert done.returncode == 0, f"{example.page}: {example.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def quick(text: str) -> str:
    for words, smaller in QUICK_PYTHON.items():
        text = text.replace(words, smaller)
    return text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ROADS)
def test_every_example_runs_in_the_order_of_the_page(name, tmp_path):
    """In a folder like a fresh clone. Commands first, since Python examples open what they left behind."""
    pytest.importorskip("timm")
    pytest.importorskip("sklearn")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    commands = [one for one in ROADS[name] if one.kind == "bash"]
    for one in commands:
        assert one.words[0] == "delayer", f"an example that no test runs: {one.text}"
        if one.words[1] == "nas":
            pytest.importorskip("optuna")
    if commands[:-1]:
        run("-c", ONE_PROCESS, [json.dumps([one.asked for one in commands[:-1]])], commands[-1], tmp_path)
    if commands:
        run("-c", ONE_PROCESS, [json.dumps([commands[-1].asked])], commands[-1], tmp_path)
    for one in ROADS[name]:
        if one.kind == "python":
            run("-c", quick(one.text), [], one, tmp_path)


def test_examples_of_one_folder_are_on_one_road():
    assert all(any(words in one.text for one in examples()) for words in QUICK_PYTHON)
    assert len(ROADS) > 5 and sum(map(len, ROADS.values())) == len(examples()) > 20
    for name, road in roads(
        [
            Example(0, "a", "bash", "delayer score x --out one"),
            Example(1, "a", "bash", "delayer score x --out two"),
            Example(2, "b", "bash", "delayer score x --out three --with one/model"),
            Example(3, "b", "python", "1 + 1"),
            Example(4, "c", "python", 'delayer.load("two/model")'),
        ]
    ).items():
        assert [one.page for one in road] == {"one+three": ["a", "b"], "two": ["a", "c"], "b": ["b"]}[name]


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
            assert option in known | {"--choose", "--cases", "--help"}, f"{page.name} shows {option}, which no command knows"
