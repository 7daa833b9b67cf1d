"""Plug-ins of anybody's package: found where they are installed, imported where they are named, and never by a file's word."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fresh
import hostile
import pytest
import torch
from planted import normal
from test_store import OWN

import delayer
from delayer.cutting import Plan
from delayer.edits import edits
from delayer.errors import DelayerError, DelayerWarning, PlanError, PlugInError, UnknownName
from delayer.families import chain_of
from delayer.metrics.blocks import metrics
from delayer.nas import worker as nas_worker
from delayer.network.chain import Chain
from delayer.registry import _ALL, imports, origins, outside
from delayer.registry.origins import _HEARD as HEARD
from delayer.registry.origins import distribution
from delayer.registry.outside import import_again, import_typed
from delayer.stages.artefacts import stage_key
from delayer.store.proof import reload_proof
from delayer.study import Scores, Shrunk, StudyInfo

METRIC = """
from delayer.metrics.blocks import metric
from delayer.metrics.blocks.block_redundancy import geometry, upper


@metric(title="{title}", shape="spans", redundant="high", unit="", source="an example", stat=geometry, fewest=16)
def {name}(stat):
    return upper(stat.cosine ** 2)
"""
EDIT = """
from typing import Literal

from torch import nn

from delayer.edits import SpanEdit, edit
from delayer.network.chain import Span


class Faded(nn.Module):
    def __init__(self, block, by):
        super().__init__()
        self.block, self.by = block, by

    def forward(self, x):
        return x + self.by * (self.block(x) - x)


@edit("fade")
class Fade(SpanEdit):
    edit: Literal["fade"] = "fade"
    by: float = 0.5

    @property
    def spans(self):
        return (Span(self.start, self.stop),)

    @property
    def label(self):
        return f"fade {self.start}:{self.stop}"

    def apply_(self, chain, stats=None):
        for index in range(self.start, self.stop):
            chain.replace_(index, Faded(chain.module(index), self.by))
"""


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """As they were, afterwards; installed plug-ins were looked for already."""
    len(edits)
    monkeypatch.setattr(outside, "_TYPED", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    forget()


def forget() -> None:
    """As in a process that has imported nothing and read nothing."""
    outside._TYPED.clear()
    HEARD.clear()
    distribution.cache_clear()
    for origin in origins():
        registry = next(one for one in _ALL if one.kind == origin.kind)
        del registry._items[origin.name], registry._origins[origin.name]
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("loose", "other", "needs", "planted_plugins", "own_networks")
    ]:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages: planted_plugins as a wheel leaves it, which announces `planted_plugins.more`."""
    folder = tmp_path / "site"
    package, facts = folder / "planted_plugins", folder / "planted_plugins-1.2.dist-info"
    package.mkdir(parents=True)
    facts.mkdir()
    (package / "__init__.py").write_text("")
    (package / "more.py").write_text(METRIC.format(name="planted_metric", title="Planted") + EDIT)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-plugins\nVersion: 1.2\n")
    (facts / "RECORD").write_text("planted_plugins/__init__.py,,\nplanted_plugins/more.py,,\n")
    (facts / "entry_points.txt").write_text("[delayer.plugins]\nplanted = planted_plugins.more\n")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module that nobody installed."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "loose.py").write_text(METRIC.format(name="loose_metric", title="Loose") + EDIT)
    (folder / "other.py").write_text(METRIC.format(name="loose_metric", title="Other"))
    monkeypatch.chdir(folder)
    return folder


def command(*words: str, cwd: Path, paths=(), really_new: bool = False, **environment: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(map(str, (*paths, Path(delayer.__file__).parent.parent)))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment | {"PYTHONPATH": paths, "COLUMNS": "150"}
    line = [sys.executable, "-m", "delayer.cli", *words]
    if really_new:
        return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True)
    return fresh.run(line, cwd=cwd, env=env)


# -- registering ---------------------------------------------------------------------------------------------------------


def cell(code: str) -> None:
    exec(compile(code, "<cell>", "exec"), {"__name__": "__main__"})


def test_a_cell_that_runs_again_replaces_what_it_registered():
    cell(METRIC.format(name="mine", title="First"))
    cell(METRIC.format(name="mine", title="Second") + EDIT)
    old = edits["fade"]
    cell(EDIT.replace("0.5", "0.25"))
    assert metrics["mine"].title == "Second"
    assert edits["fade"] is not old and edits["fade"](start=0, stop=1).by == 0.25


def test_a_module_that_is_loaded_again_replaces_what_it_registered(here):
    import_typed("loose")
    (here / "loose.py").write_text(METRIC.format(name="loose_metric", title="Better one"))
    importlib.invalidate_caches()
    importlib.reload(sys.modules["loose"])
    assert metrics["loose_metric"].title == "Better one"


def test_two_packages_may_not_share_a_name(here, site, monkeypatch):
    sys.path.insert(0, str(site))
    import_typed("loose")
    with pytest.raises(
        PlugInError, match=r"Two metrics are called 'loose_metric': one of the module loose, and one of the module other\. Rename"
    ):
        import_typed("other")
    with pytest.raises(
        PlugInError, match=r"'fade': one of the module loose, and one of planted-plugins 1\.2 \(planted_plugins\.m"
    ):
        import_typed("planted_plugins.more")
    assert metrics["loose_metric"].title == "Loose"
    with pytest.raises(
        PlugInError, match=r"Two metrics are called 'cka': one of .*delayer\.metrics\.blocks\.cka\)?, and one of this"
    ):
        cell(METRIC.format(name="cka", title="Another"))


def test_one_module_may_not_give_a_name_twice(here):
    (here / "other.py").write_text(
        "from delayer.tasks.sources import sources\n"
        "@sources.register('twice')\ndef one(): ...\n@sources.register('twice')\ndef two(): ...\n"
    )
    with pytest.raises(PlugInError, match="Two data sources are called 'twice'"):
        import_typed("other")


def test_a_record_about_no_function_is_known_by_the_module_that_registers_it(here):
    (here / "other.py").write_text(
        "from delayer.families import families\nfrom delayer.network.chain import Family\n"
        "families.register('Mine')(Family(name='Mine', classes=(), blocks='', axis=-1, rows='mean'))\n"
    )
    import_typed("other")
    importlib.reload(sys.modules["other"])
    assert [(one.kind, one.name, one.module) for one in origins()] == [("family", "Mine", "other")]


# -- installed packages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("really_new", [True, False])
def test_an_installed_package_s_plug_ins_are_there(site, here, really_new):
    said = command("list", "metrics", cwd=here, paths=[site], really_new=really_new)
    assert said.returncode == 0, said.stderr
    row = next(line for line in said.stdout.splitlines() if "planted_metric" in line)
    assert "Planted. an example" in row and "planted-plugins 1.2 (planted_plugins.more)" in row
    assert "loose_metric" not in said.stdout and not said.stderr


def test_a_broken_one_is_told_of_and_stops_nothing(site, here):
    (site / "planted_plugins" / "bad.py").write_text("import nothing_of_this_name\n")
    (site / "planted_plugins" / "taken.py").write_text(METRIC.format(name="cka", title="Another"))
    with (site / "planted_plugins-1.2.dist-info" / "entry_points.txt").open("a") as file:
        file.write("bad = planted_plugins.bad\ntaken = planted_plugins.taken\n")
    said = command("list", "metrics", cwd=here, paths=[site])
    assert said.returncode == 0 and "planted_metric" in said.stdout
    bad, taken = said.stderr.splitlines()
    assert bad == (
        "delayer: The plug-in bad (planted_plugins.bad) of planted-plugins 1.2 is left out, since it cannot be imported: "
        "ModuleNotFoundError: No module named 'nothing_of_this_name'. Mend or uninstall that package."
    )
    assert "The plug-in taken" in taken and "Two metrics are called 'cka'" in taken


def test_what_lies_in_the_current_folder_is_not_installed(site):
    (site / "planted_plugins" / "more.py").write_text("open('ran', 'w')\n")
    for more in ({}, {"paths": [site]}):
        said = command("list", "metrics", cwd=site, **more)
        assert said.returncode == 0 and "cka" in said.stdout and not (site / "ran").exists()


# -- modules that the user names -------------------------------------------------------------------------------------------


def test_a_command_imports_what_its_line_names(site, here):
    for words, environment in ((("--import", "loose"), {}), ((), {"DELAYER_IMPORT": "loose"})):
        said = command("list", "metrics", *words, cwd=here, **environment)
        assert "the module loose" in next(line for line in said.stdout.splitlines() if "loose_metric" in line), said.stderr
    said = command("list", "metrics", "--import", "loose", "--import", "planted_plugins.more", cwd=here, paths=[site])
    assert said.returncode == 2 and "Two edits are called 'fade'" in said.stderr


@pytest.mark.parametrize(
    "name, says",
    [
        ("lose", "--import lose: there is no module lose, neither installed nor in .*here. Install its package, or go to"),
        ("loose.py", "--import loose.py: there is no module loose.py, neither"),
        ("loose:metric", "--import 'loose:metric' names no module. Give a name as in Python's import, such as"),
        ("fails", "--import fails fails: NameError: name 'nothing' is not defined. Mend that module."),
        ("needs", "--import needs needs nothing_of_this_name, which is not installed. Install that first."),
    ],
)
def test_what_cannot_be_imported_is_said(name, says, here):
    (here / "fails.py").write_text("nothing\n")
    (here / "needs.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(PlugInError, match=says):
        import_typed(name)
    said = command("list", "--import", name, cwd=here)
    assert said.returncode == 2 and said.stderr.startswith("delayer: --import") and not said.stdout


def test_every_command_has_the_option():
    import typer

    from delayer.cli import app

    commands = typer.main.get_command(app).commands
    assert len(commands) > 10
    assert not [name for name, one in commands.items() if not any("--import" in p.opts for p in one.params)]


OPERATOR = """
from pydantic import Field

from delayer.fitting.operators import operator
from delayer.fitting.operators.diagonal import Diagonal


@operator("mine")
class Mine(Diagonal):
    twist: float = Field(default=0.5, gt=0)
"""


def test_options_of_one_s_own_operator_are_given_by_name(here):
    (here / "other.py").write_text(OPERATOR)
    words = ("plan", "m", "--data", "digits", "--span", "1:2", "--operator", "mine", "--import=other")
    said = command(*words, "--operator-option", "twist=-1", cwd=here)
    assert said.returncode == 2 and "twist" in said.stderr and "greater than 0" in said.stderr


def test_importing_delayer_imports_no_plug_in(site, here):
    code = "import sys, delayer, delayer.cli; print('planted_plugins' in sys.modules)"
    paths = os.pathsep.join([str(site), str(Path(delayer.__file__).parent.parent)])
    said = fresh.run([sys.executable, "-c", code], cwd=here, env=os.environ | {"PYTHONPATH": paths})
    assert said.stdout == "False\n"


# -- files name, and that is all --------------------------------------------------------------------------------------------


def fading(chain: Chain) -> Plan:
    """A plan that fades block 1."""
    stated = {
        "model": "mine",
        "model_hash": "",
        "num_blocks": chain.num_blocks,
        "edits": [{"edit": "fade", "start": 1, "stop": 2}],
    }
    return Plan.model_validate(stated)


@pytest.fixture
def planned(here):
    """A network of somebody's own, and a plan that fades a block of it by an edit of the module loose."""
    (here / "own_networks.py").write_text(OWN)
    import_typed("loose")
    chain = chain_of(delayer.load("own_networks:make"), normal(3, 8)())
    return chain, fading(chain)


def test_a_plan_names_what_it_uses_and_says_what_is_missing(planned, here):
    _, plan = planned
    plan.save(here / "plan.json")
    stated = json.loads((here / "plan.json").read_text())
    assert stated["plugins"] == [{"kind": "edit", "name": "fade", "module": "loose", "package": "", "version": ""}]
    assert delayer.read_plan(here / "plan.json") == plan
    forget()
    with (
        hostile.watched(here) as seen,
        pytest.raises(
            PlanError,
            match=r"The edit 'fade' of the module loose is not registered here\. Pass --import loose \(in Python: import it\)",
        ),
    ):
        delayer.read_plan(here / "plan.json")
    assert "loose" not in sys.modules and not seen


@pytest.mark.parametrize(
    "module, package, version, says",
    [
        (
            "planted_plugins.more",
            "planted-plugins",
            "1.2",
            r"The edit 'fade' of planted-plugins 1\.2 is not registered here\. Install it \(pip install planted-plugins\), or "
            r"pass --import planted_plugins\.more",
        ),
        ("__main__", "", "", "The edit 'fade' is of somebody's notebook or script, and is not registered here. Run that code"),
    ],
)
def test_it_says_how_to_get_each(module, package, version, says, planned, here):
    _, plan = planned
    stated = json.loads(plan.model_dump_json())
    stated["plugins"] = [{"kind": "edit", "name": "fade", "module": module, "package": package, "version": version}]
    (here / "plan.json").write_text(json.dumps(stated))
    forget()
    with pytest.raises(PlanError, match=says):
        delayer.read_plan(here / "plan.json")


def test_a_package_s_name_and_version_come_with_it(site, here):
    sys.path.insert(0, str(site))
    import_typed("planted_plugins.more")
    (stated,) = Plan(model="", model_hash="", num_blocks=3, edits=({"edit": "fade", "start": 1, "stop": 2},)).plugins
    assert (stated.module, stated.package, stated.version) == ("planted_plugins.more", "planted-plugins", "1.2")


@pytest.mark.parametrize(
    "change",
    [
        {"module": "os; system"},
        {"package": "-r evil.txt"},
        {"package": "git+https://evil"},
        {"version": "1 && evil"},
        {"module": hostile.MODULE},
    ],
)
def test_whatever_a_file_names_is_not_imported_and_not_said_as_advice(change, planned, here):
    _, plan = planned
    stated = json.loads(plan.model_dump_json())
    stated["plugins"][0] |= change
    (here / "plan.json").write_text(json.dumps(stated))
    forget()
    with hostile.watched(here) as seen, pytest.raises(PlanError) as caught:
        delayer.read_plan(here / "plan.json")
    assert not seen and not (here / f"{hostile.MODULE}.ran").exists()
    assert "pip install" not in str(caught.value)


def test_records_without_plug_ins_are_written_as_ever(planned):
    chain, _ = planned
    plan = delayer.plan_by_hand(chain, ["1:2"], operator="drop")
    assert "plugins" not in plan.model_dump() and "plugins" not in json.loads(plan.model_dump_json())


def test_scores_shrinking_and_the_study_name_theirs_too(here, tmp_path):
    import planted_studies

    study = planted_studies.vit(tmp_path / "study")
    import_typed("loose")
    cell("from delayer.shrinking.schedules import schedule\n@schedule('mine', source='me')\ndef mine(look, most): ...\n")
    scores = study.read("scores")
    assert not scores.plugins
    renamed = scores.scores[0].model_copy(update={"name": "loose_metric"})
    assert [one.name for one in Scores(**{**dict(scores), "scores": (renamed, *scores.scores[1:])}).plugins] == ["loose_metric"]
    study.write("shrink", Shrunk(**{**dict(study.read("shrink")), "schedule": "mine"}))
    assert [(one.name, one.module) for one in study.read("shrink").plugins] == [("mine", "__main__")]
    info = study.read("study")
    asked = info.asked.model_copy(update={"options": info.asked.options | {"schedules": ["ours", "mine"]}})
    study.write("study", StudyInfo(**{**dict(info), "asked": asked, "seal": ""}))
    assert [one.kind for one in study.read("study").plugins] == ["schedule"], "and its seal holds"
    from delayer.shrinking import schedules

    forget()
    study.read("study")
    with pytest.raises(UnknownName, match="The schedule 'mine' is of somebody's notebook or script"):
        schedules["mine"]


# -- other processes -----------------------------------------------------------------------------------------------------------


def test_a_saved_network_is_proven_by_a_process_that_imports_what_this_one_did(planned, here):
    chain, plan = planned
    inputs = normal(3, 8)()
    small = delayer.apply(chain, plan)
    delayer.save(small, plan, chain, here / "cut", example=inputs)
    stated = json.loads((here / "cut" / "plan.json").read_text())["plugins"]
    assert [one["module"] for one in stated] == list(imports()) == ["loose"]
    assert torch.equal(delayer.load(str(here / "cut"))(inputs), small(inputs))
    proof = reload_proof(small, here / "cut", inputs)
    assert proof.passed, proof.note
    forget()
    with hostile.watched(here) as seen, pytest.raises(DelayerError, match=r"The edit 'fade' of the module loose.*--import loose"):
        delayer.load(str(here / "cut"), factory="own_networks:make")
    assert not seen and "loose" not in sys.modules
    proof = reload_proof(small, here / "cut", inputs, factory="own_networks:make")
    assert not proof.passed and "The edit 'fade' of the module loose is not registered here" in proof.note


STRATEGY = """
from delayer.nas.strategies import strategy


@strategy(rule="takes the first; the best validation accuracy wins", source="an example")
def first_come(space, seen, taken, rng, options):
    return next(one for one in space.every() if space.canonical(one) not in taken)
"""


def test_workers_of_a_search_import_what_their_search_did(here, monkeypatch):
    pytest.importorskip("optuna")
    import numpy as np

    from delayer import nas
    from delayer.nas.strategies import strategies

    numbers = np.random.default_rng(0)
    np.savez(here / "data.npz", x=numbers.integers(0, 255, (60, 8, 8), dtype="uint8"), y=numbers.permutation(60) % 10)
    (here / "other.py").write_text(STRATEGY)
    import_typed("other")
    found = nas.search(
        f"npz:{here}/data.npz",
        out=here / "nas",
        strategy="first_come",
        space=nas.SpaceOptions(space="depth_width", depths=(1,), widths=(4, 8), stages=1),
        proxy=nas.ProxyOptions(epochs=1, augment=False, score_batch_size=8),
        task=nas.NasTaskOptions(num_fit=30, num_validation=20, num_test=10, batch_size=10),
        options=nas.SearchOptions(trials=2, latency_rounds=1, threads=1),
    )
    assert {trial.state for trial in found.trials} == {"trained"}
    assert [(one.kind, one.name, one.module) for one in found.plugins] == [("search strategy", "first_come", "other")]
    assert json.loads((here / "nas" / "search.json").read_text())["plugins"][0]["name"] == "first_come"
    forget()
    assert nas_worker.work(str(here / "nas"), "worker-9") == 0, "no slot waits, so nothing is asked"
    with pytest.raises(UnknownName, match="The search strategy 'first_come' of the module other .*--import other"):
        strategies["first_come"]


def test_a_process_that_cannot_import_it_says_so_and_goes_on(here):
    with pytest.warns(DelayerWarning, match="--import fails: there is no module fails"):
        import_again(["fails", "loose"])
    assert "loose_metric" in metrics


def test_a_stage_that_asks_all_of_a_kind_is_done_again_with_a_new_one(here):
    work = SimpleNamespace(model=None, model_hash="m", task=SimpleNamespace(hash="d"), data=("digits",), seed=0)
    before = {stage: stage_key(work, stage) for stage in ("score", "sites", "cut")}
    import_typed("loose")
    assert [stage for stage, key in before.items() if stage_key(work, stage) != key] == ["score"]
