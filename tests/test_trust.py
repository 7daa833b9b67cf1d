"""What a file names is never a reason to import or call it."""

import contextlib
import json
import os
import sys
import warnings
from pathlib import Path

import hostile
import pytest
import torch
from planted import BY_NAME, normal
from test_store import OWN, original, saved

from delayer import cli
from delayer.cli.opening import opens_networks, reopened
from delayer.errors import DelayerError, DelayerWarning, ModelError, NasError, UnknownName
from delayer.families import chain_of
from delayer.nas import SpaceOptions, load_winner
from delayer.nas.data import NasData
from delayer.nas.winner import save_winner
from delayer.nas.worker import work
from delayer.progress import Reporter
from delayer.store import allowing, given, load, read_artefact
from delayer.store.integrity import seal

MOST = int(os.environ.get("DELAYER_HOSTILE", "14"))
"""Places of each file that get hostile values; a thousand covers all."""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    """As in a new process: the user has named nothing yet."""
    monkeypatch.setattr(given, "_GIVEN", {})


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("own_networks", None)
    return tmp_path


def reseal(folder: Path) -> None:
    """What somebody does who wants a changed folder to look whole."""
    with contextlib.suppress(DelayerError):
        seal(read_artefact(folder), folder)


def own_folder(place: Path) -> Path:
    x = normal(3, 8)()
    saved(chain_of(load("own_networks:make"), x), place / "cut", x, dropped=["1"], mapped=["3"])
    given._GIVEN.clear()
    sys.modules.pop("own_networks")
    return place / "cut"


def test_the_watch_sees_what_it_is_for(own):
    with hostile.watched(own) as seen:
        __import__(hostile.MODULE)
        os.system("true")
    assert any("import of hostile_module" in one for one in seen) and any("os.system" in one for one in seen)


# -- a factory comes from the caller ---------------------------------------------------------------------------------


def test_a_factory_is_never_imported_because_a_file_names_it(own):
    folder = own_folder(own)
    with pytest.raises(
        ModelError,
        match="cut was made with own_networks:make, .* a file's word is no reason to import it.*"
        "factory=.*--factory own_networks:make; trust=True",
    ):
        load(str(folder))
    assert "own_networks" not in sys.modules
    by_name = load(str(folder), factory="own_networks:make")
    import own_networks

    by_hand = load(str(folder), factory=own_networks.make)
    x = normal(3, 8)()
    assert torch.equal(by_name(x), by_hand(x)) and torch.equal(load(str(folder))(x), by_hand(x)), "given once is enough"


def test_trust_imports_what_the_file_names(own):
    folder = own_folder(own)
    assert load(str(folder), trust=True) and "own_networks" in sys.modules
    given._GIVEN.clear()
    with allowing(trust=True):
        assert load(str(folder))


def test_texts_for_a_factory_come_from_the_caller_too(own):
    folder = own_folder(own)
    artefact = json.loads((folder / "delayer.json").read_text())
    artefact["source"]["config"] = {"width": "weights.pth"}
    (folder / "delayer.json").write_text(json.dumps(artefact))
    reseal(folder)
    with pytest.raises(ModelError, match="wants its factory called with width='weights.pth'; texts may name files.*width="):
        load(str(folder), factory="own_networks:make")
    assert load(str(folder), factory="own_networks:make", width=8)


def test_a_factory_that_nobody_needs_is_refused(own, tmp_path):
    with pytest.raises(ModelError, match="'own_networks:make' is no folder that delayer saved, so no factory is needed"):
        load("own_networks:make", factory="own_networks:make")
    saved(original("bert", tmp_path), tmp_path / "small", BY_NAME["bert"].inputs(), dropped=["1"])
    with pytest.raises(ModelError, match="which no factory builds. Leave factory="):
        load(str(tmp_path / "small"), factory="own_networks:make")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            {"kind": "factory", "name": "os:system", "config": {"command": "touch ran"}},
            "made with os:system, a function of somebody",
        ),
        ({"kind": "factory", "name": "not a name", "config": {}}, "'not a name', which is not spelled package.module:factory"),
        (
            {
                "kind": "delayer",
                "name": "",
                "config": {"source": {"kind": "factory", "name": "os:system"}, "chain": {}, "plan": {}},
            },
            "made with os:system",
        ),
        ({"kind": "delayer", "name": "", "config": {}}, "does not say where the network that was cut came from"),
        ({"kind": "timm", "name": "local-dir:evil"}, "names timm:local-dir:evil, which is no architecture"),
        ({"kind": "timm", "name": "resnet18", "config": {"checkpoint_path": "evil.pth"}}, "checkpoint_path='evil.pth', which a"),
        ({"kind": "timm", "name": "resnet18", "config": {"pretrained": True}}, "pretrained='True', which a file may not ask for"),
        (
            {"kind": "huggingface", "name": "", "model_class": "Trainer"},
            "the class 'Trainer', which is no network of transformers",
        ),
        ({"kind": "huggingface", "name": "", "model_class": "pipeline"}, "the class 'pipeline'"),
        ({"kind": "huggingface", "name": "", "model_class": "TimmWrapperModel"}, "the class 'TimmWrapperModel'"),
        (
            {"kind": "huggingface", "name": "", "model_class": "BertModel", "arguments": {"trust_remote_code": True}},
            "BertModel built with trust_remote_code='True'",
        ),
        (
            {"kind": "huggingface", "name": "", "model_class": "BertModel", "config": {"auto_map": {"AutoModel": "evil.Net"}}},
            r"wants Python code of its own imported \(auto_map\)",
        ),
        (
            {"kind": "huggingface", "name": "", "model_class": "BertModel", "config": {"_attn_implementation": "evil/kernel"}},
            "holds _attn_implementation='evil/kernel'",
        ),
        (
            {
                "kind": "huggingface",
                "name": "",
                "model_class": "LlavaForConditionalGeneration",
                "config": {"vision_config": {"model_type": "timm_wrapper"}},
            },
            "holds vision_config.model_type='timm_wrapper'",
        ),
    ],
)
def test_what_a_source_may_not_name(source, message, own):
    folder = own_folder(own)
    (folder / "delayer.json").write_text(json.dumps(json.loads((folder / "delayer.json").read_text()) | {"source": source}))
    reseal(folder)
    with hostile.watched(own) as seen, pytest.raises(ModelError, match=message):
        load(str(folder))
    assert not seen and not (own / "ran").exists()


# -- every key of every file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["factory", "bert-ordinary", "bert-mapped", "timm-ordinary", "twice"])
def test_hostile_values_in_a_saved_folder_run_nothing(kind, own):
    folder = own / "cut"
    if kind == "factory":
        own_folder(own)
    elif kind == "twice":
        x = normal(3, 8)()
        saved(chain_of(load(str(own_folder(own)), factory="own_networks:make"), x), own / "again", x, dropped=["0"])
        folder = own / "again"
        given._GIVEN.clear()
    else:
        name, _, way = kind.replace("timm", "timm-resnet").rpartition("-")
        case = BY_NAME[name]
        saved(original(name, own), folder, case.inputs(), **{"dropped" if way == "ordinary" else "mapped": case.spans[:1]})
    tracebacks, opened = [], 0
    for file in sorted(folder.glob("*.json")):
        kept = file.read_text()
        record = (folder / "delayer.json").read_text()
        for what, text in hostile.mutants(kept, most=MOST):
            file.write_text(text)
            reseal(folder)
            with hostile.watched(own) as seen:
                try:
                    load(str(folder))
                    opened += 1
                except DelayerError:
                    pass
                except Exception as error:
                    tracebacks.append(f"{file.name}: {what}: {type(error).__name__}: {error}")
            assert not seen, f"{file.name}: {what}: {seen}"
            file.write_text(kept)
            (folder / "delayer.json").write_text(record)
    assert not tracebacks, tracebacks
    assert "own_networks" not in sys.modules or kind == "twice"


def test_hostile_values_in_a_study_run_nothing(own):
    import planted_studies

    study = planted_studies.vit(own / "study")
    path = study.path("study.json")
    kept = path.read_text()
    for what, text in hostile.mutants(kept, most=3 * MOST):
        path.write_text(text)
        with hostile.watched(own) as seen:
            for read in (lambda: reopened(study.folder, Reporter(quiet=True)), lambda: study.read("study")):
                with pytest.raises(DelayerError) if read.__code__.co_names[0] == "reopened" else _either():
                    read()
        assert not seen, (what, seen)
    asked = {"model": "hostile_module:run", "data": ["digits"], "options": {}}
    path.write_text(json.dumps(json.loads(kept) | {"asked": asked, "seal": ""}))
    with pytest.raises(DelayerError, match="study was made with hostile_module:run, .* --factory hostile_module:run"):
        reopened(study.folder, Reporter(quiet=True))


class _either:
    """A DelayerError or none."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        return kind is not None and issubclass(kind, DelayerError)


# -- searches ------------------------------------------------------------------------------------------------------------


def test_a_search_s_files_import_nothing(own):
    space = SpaceOptions(space="depth_width", depths=(1,), widths=(4,), stages=1)
    data = NasData(None, 1, 3, {"mean": (0.5,)})
    model = data.build(space.open(), "1x4")
    save_winner(own / "winner", model, space, "1x4", data)
    kept = (own / "winner" / "config.json").read_text()
    assert load_winner(own / "winner")
    for name in ("hostile_module:run", "os:system"):
        for change in ({"block": name}, {"space": name}):
            config = json.loads(kept)
            config["space"] |= change
            (own / "winner" / "config.json").write_text(json.dumps(config))
            with hostile.watched(own) as seen, pytest.raises(NasError, match=f"{name}.* a file's word is no reason to import it"):
                with pytest.warns(DelayerWarning, match="config.json is not as it was saved"):
                    load_winner(own / "winner", allow_changed=True)
            assert not seen
    with pytest.raises(NasError, match="config.json is not as it was saved. Bring the saved files back"):
        load_winner(own / "winner")
    for what, text in hostile.mutants(kept, most=MOST):
        (own / "winner" / "config.json").write_text(text)
        with hostile.watched(own) as seen, _either():
            load_winner(own / "winner")
        assert not seen, what


def test_a_worker_imports_what_its_command_line_names(own):
    from delayer.nas.options import NasTaskOptions, ProxyOptions, Setup
    from delayer.nas.strategies import StrategyOptions

    setup = Setup(
        data="digits",
        test=None,
        strategy="redtest",
        space=SpaceOptions(space="hostile_module:run"),
        proxy=ProxyOptions(),
        task=NasTaskOptions(),
        strategy_options=StrategyOptions(),
        seed=0,
        device="cpu",
    )
    (own / "search.json").write_text(setup.model_dump_json())
    with hostile.watched(own) as seen, pytest.raises(NasError, match="hostile_module:run.*no reason to import"):
        work(str(own), "worker-0")
    assert not seen


# -- folders of others ---------------------------------------------------------------------------------------------------


def test_a_folder_with_code_of_its_own_is_refused_without_a_question(own, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    case = BY_NAME["bert"]
    case.write(case.build(), own)
    folder = own / "original"
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        kept = (folder / file).read_text() if (folder / file).exists() else None
        (folder / file).write_text(json.dumps(json.loads(kept or "{}") | {"auto_map": {"AutoModel": "hostile_module.run"}}))
        with hostile.watched(own) as seen, pytest.raises(ModelError, match=r"wants Python code of its own imported \(auto_map\)"):
            load(str(folder))
        assert not seen
        if kept is None:
            (folder / file).unlink()
        elif file == "config.json":
            with hostile.watched(own) as seen:
                assert load(str(folder), trust=True), "by its library's own class"
            assert not seen
            (folder / file).write_text(kept)
    assert load(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds an adapter for another network"):
        load(str(folder))


def test_a_folder_of_timm_s_that_asks_for_more_is_refused(own):
    case = BY_NAME["timm-resnet"]
    saved(original("timm-resnet", own), own / "cut", case.inputs(), dropped=case.spans[:1])
    config = json.loads((own / "cut" / "config.json").read_text())
    (own / "cut" / "config.json").write_text(json.dumps(config | {"model_args": {"checkpoint_path": "evil.pth"}}))
    with pytest.raises(ModelError, match="checkpoint_path='evil.pth', which a file may not ask for"):
        load(f"timm:local-dir:{own / 'cut'}")


# -- the command line --------------------------------------------------------------------------------------------------


def test_a_study_of_one_s_own_network_asks_for_its_name_once(own, monkeypatch, capsys):
    import planted_studies

    study = planted_studies.vit(own / "study")
    info = json.loads(study.path("study.json").read_text())
    info |= {"asked": {"model": "own_networks:make", "data": ["npz:none.npz"], "options": {}}, "seal": ""}
    study.path("study.json").write_text(json.dumps(info))

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["delayer", *words])
        given._GIVEN.clear()
        sys.modules.pop("own_networks", None)
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().err

    assert "study was made with own_networks:make, a function of somebody's own" in said("export", str(study.folder))
    assert "own_networks" not in sys.modules
    for words in (("--factory", "own_networks:make"), ("--trust",)):
        assert "none.npz" in said("export", str(study.folder), *words), "the network was opened, its data is not there"
    monkeypatch.setenv("DELAYER_FACTORY", "own_networks:make")
    assert "none.npz" in said("export", str(study.folder))


def test_a_command_says_its_warnings_in_a_sentence(capsys):
    def command() -> None:
        warnings.warn("It is opened all the same.", DelayerWarning, stacklevel=1)

    opens_networks(command)(factory=None, trust=False, allow_changed=True)
    assert capsys.readouterr().err == "delayer: It is opened all the same.\n"


def test_the_current_folder_is_importable_for_typed_names_only(own):
    before = [path for path in sys.path if path == str(own)]
    with pytest.raises(UnknownName):
        load("no/such/folder")
    folder = own / "f"
    folder.mkdir()
    with pytest.raises(UnknownName):
        load(str(folder))
    assert [path for path in sys.path if path == str(own)] == before == []
    load("own_networks:make")
    assert sys.path[-1] == str(own)  # a library that is imported later comes from where it is installed


@pytest.mark.parametrize(
    "edit, said",
    [
        ({"architectures": ["Trainer"]}, "names the class 'Trainer'"),
        ({"architectures": ["RagModel"]}, "names the class 'RagModel'"),
        ({"n_embd": 10**8}, "describes a network of more than"),
        ({"vocab_size": 10**9}, "describes a network of more than"),
        ({"num_labels": 999_999}, "10,000 is the most that is believed"),
        ({"architectures": [["x"]]}, ""),
    ],
)
def test_a_folder_of_the_librarys_own_is_held_to_the_same_lists_and_sizes(edit, said, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text()) | edit
    (tmp_path / "config.json").write_text(json.dumps(stated))
    if said:
        with pytest.raises(ModelError, match=said):
            load(str(tmp_path))
    else:  # no name at all: the class that fits the weights
        assert type(load(str(tmp_path))).__name__ == "GPT2LMHeadModel"
