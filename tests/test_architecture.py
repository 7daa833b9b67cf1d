"""What must not depend on what, and what importing delayer must not load."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

import delayer

SOURCE = Path(delayer.__file__).parent
FLOORS = [
    {"errors", "progress"},
    {"libraries"},
    {"registry"},
    {"network", "study"},
    {"modules", "observing", "tasks"},
    {"families", "activations", "merging"},
    {"fitting", "metrics"},
    {"edits", "measure"},
    {"cutting"},
    {"store"},
    {"search"},
    {"tuning", "nas"},
    {"shrinking", "report"},
    {"stages"},
    {"__init__"},
    {"cli"},
]
"""From the ground up: a part, a folder or a file at the root, imports what lies on lower floors, never its neighbours."""
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
BY_NAME = {("store", "nas")}
"""What is loaded from above at run time only: the maker of a network that a search found, where a folder holds one."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCE.rglob("*.py")}


def imported(code: str, package: str) -> set[str]:
    """The modules of delayer's that code of a package imports, however it is spelled, also inside functions and by name."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package)
                found |= {inner if (inner := f"{base}.{alias.name}") in MODULES else base for alias in node.names}
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module"), args=[ast.Constant(value=str(name)), *_]
            ):
                found.add(name)
    return {name for name in found if name.split(".")[0] == "delayer"}


def part_of(module: str) -> str:
    return ([*module.split("."), "__init__"])[1]


@cache
def imports() -> dict[str, set[str]]:
    """Module → the modules that it imports."""
    return {
        name: imported(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])
        for name, path in MODULES.items()
    }


def seen_by(part: str) -> set[str]:
    """The modules outside a part that it imports."""
    return {other for name, others in imports().items() if part_of(name) == part for other in others if part_of(other) != part}


@pytest.mark.parametrize(
    "code, module",
    [
        ("import delayer", "delayer"),
        ("import delayer.search.scan as s", "delayer.search.scan"),
        ("from delayer import __version__", "delayer"),
        ("from delayer import search", "delayer.search"),
        ("def f():\n    from delayer.search import scan", "delayer.search.scan"),
        ("from delayer.search.scan import scan", "delayer.search.scan"),
        ("from . import affine", "delayer.fitting.affine"),
        ("from .affine import solve", "delayer.fitting.affine"),
        ("from .. import search", "delayer.search"),
        ("from ..search.scan import scan", "delayer.search.scan"),
        ("import_module('delayer.nas.winner')", "delayer.nas.winner"),
        ("importlib.import_module('delayer.nas')", "delayer.nas"),
    ],
)
def test_every_way_to_spell_an_import_is_seen(code, module):
    assert imported(code, "delayer.fitting") == {module}


def test_every_part_has_its_floor():
    assert {part_of(name) for name in MODULES} == set(FLOOR)


def test_the_root_holds_the_ground_alone():
    files = {path.name for path in SOURCE.iterdir() if path.is_file()}
    assert files == {"__init__.py", "errors.py", "libraries.py", "progress.py", "py.typed"}


def test_every_room_says_what_lives_there():
    inits = [path for name, path in MODULES.items() if path.name == "__init__.py"]
    assert not [str(path) for path in inits if not ast.get_docstring(ast.parse(path.read_text()))]
    assert {path.parent for path in MODULES.values()} == {path.parent for path in inits}


def test_the_documents_list_the_parts_from_the_ground_up():
    page = (Path(__file__).parent.parent / "docs/concepts.md").read_text()
    listed = re.findall(r"^  (\w+)(?:/|\.py) ", page.partition("```text\nsrc/delayer/\n")[2].partition("```")[0], re.M)
    assert sorted(listed) == sorted(set(FLOOR) - {"__init__"})
    assert [FLOOR[part] for part in listed] == sorted(FLOOR[part] for part in listed)


def test_no_import_runs_upwards():
    """So no two parts need each other, by whatever detour."""
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if part_of(name) != part_of(other)
        and FLOOR[part_of(name)] <= FLOOR[part_of(other)]
        and (part_of(name), part_of(other)) not in BY_NAME
    ]
    assert not wrong


def test_metrics_see_statistics_and_never_models():
    assert {name for name in seen_by("metrics") if not name.startswith("delayer.observing.stats")} <= {
        "delayer.registry",
        "delayer.registry.options",
        "delayer.study",
        "delayer.observing.rows",
        "delayer.activations.switches",
        "delayer.activations.normal",
    }


def test_the_report_sees_a_study_folder_only():
    assert {part_of(name) for name in seen_by("report")} <= {"study", "errors"}


def test_edits_never_measure():
    assert not {part_of(name) for name in seen_by("edits")} & {"measure", "tasks", "metrics", "search"}


def test_importing_delayer_loads_nothing_heavy():
    heavy = (
        "transformers",
        "timm",
        "torchvision",
        "datasets",
        "plotly",
        "jinja2",
        "onnx",
        "onnxruntime",
        "typer",
        "rich",
        "sklearn",
        "pandas",
        "PIL",
        "accelerate",
        "optuna",
        "ray",
    )
    code = f"import sys, delayer; print([m for m in {heavy!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented():
    for name in delayer.__all__:
        assert getattr(delayer, name).__doc__ if name != "__version__" else delayer.__version__


def test_no_public_name_is_a_module_s():
    """Or one name of the package would stand for two things, by what was imported first."""
    names = [name for name in delayer.__all__ if not name.startswith("_") and find_spec(f"delayer.{name}")]
    assert {name: getattr(delayer, name) for name in names} == {name: sys.modules[f"delayer.{name}"] for name in names}


def test_the_public_face_is_what_it_says_and_nothing_else():
    assert dir(delayer) == sorted(set(delayer.__all__))
    verbs = (
        "load save chain_of open_task task_of observe score sites scan plan apply tune shrink merge check evaluate "
        "compare_latency export_onnx run"
    )
    assert {*verbs.split(), "edits", "operators", "metrics", "stats", "methods"} <= set(delayer.__all__)
    assert all(callable(getattr(delayer, name)) for name in verbs.split())
    assert delayer.edits.DropSpan.__module__ == "delayer.edits.drop_span" and {"Affine", "LowRank"} <= set(dir(delayer.operators))
    assert not {"Any", "json", "torch"} & {
        name for space in ("edits", "operators", "methods", "stats") for name in dir(getattr(delayer, space))
    }
    with pytest.raises(AttributeError, match="delayer.edits has no Nothing"):
        _ = delayer.edits.Nothing
