"""What must not depend on what, and what importing delayer must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import delayer

SOURCE = Path(delayer.__file__).parent
LAYERS = [
    {"errors", "registry", "libraries", "progress", "intervals", "given"},
    {"handing", "calling", "chain", "layers", "pair", "affine", "rows", "processes", "branch", "folding", "conv_map",
     "activations", "linearised", "separate", "uses", "algebra"},
    {"standin", "families", "stats", "ridge", "sites"},
    {"study", "metrics", "site_metrics", "edits"},
    {"hashing", "observe", "watch_sites", "prefix", "streams", "repair", "plan", "budget", "search", "local_search", "ties",
     "scan", "judging", "scoring", "tasks", "planner", "methods", "score_sites", "fusing"},
    {"measure", "store", "tune", "shrink", "nas"},
    {"stages", "report"},
    {"cli"},
]
"""From the ground up: a part may import what lies below it, and within a layer one way only."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports() -> dict[str, set[str]]:
    """What each part of the package imports of it, also inside functions."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        mine = found.setdefault(part_of(path), set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            mine |= {name.split(".")[1] for name in names if name.startswith("delayer.")}
    return {part: others - {part} for part, others in found.items()}


def test_every_part_has_its_layer():
    assert set(imports()) - {"__init__"} == set(LEVEL)


def test_nothing_imports_what_lies_above_it():
    wrong = [f"{part} imports {other}" for part, others in imports().items() if part != "__init__"
             for other in others if LEVEL[other] > LEVEL[part]]
    assert not wrong


def test_imports_go_one_way():
    """No two parts need each other, by whatever detour."""
    graph = {part: others for part, others in imports().items() if part != "__init__"}
    reached: dict[str, set[str]] = {}
    for part in graph:
        seen, todo = set(), list(graph[part])
        while todo:
            if (other := todo.pop()) not in seen:
                seen.add(other)
                todo += graph[other]
        reached[part] = seen
    assert not [part for part, others in reached.items() if part in others]


def test_metrics_see_statistics_and_never_models():
    assert imports()["metrics"] <= {"stats", "registry", "rows", "intervals"}


def test_the_report_sees_a_study_folder_only():
    assert imports()["report"] <= {"study", "errors"}


def test_edits_never_measure():
    assert not imports()["edits"] & {"measure", "tasks", "metrics", "planner"}


def test_importing_delayer_loads_nothing_heavy():
    heavy = ("transformers", "timm", "torchvision", "datasets", "plotly", "jinja2", "onnx", "onnxruntime", "typer",
             "rich", "sklearn", "pandas", "PIL", "accelerate", "optuna", "ray")
    code = f"import sys, delayer; print([m for m in {heavy!r} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_public_names_exist_and_are_documented():
    for name in delayer.__all__:
        assert getattr(delayer, name).__doc__ if name != "__version__" else delayer.__version__
