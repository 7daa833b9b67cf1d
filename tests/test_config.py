"""`--config`: a study's config.yaml repeats it, what is typed goes before, and a file is never trusted with more than options."""

import sys

import pytest
import yaml

from delayer import cli

pytest.importorskip("sklearn")
WORDS = ["--data", "digits", "--num-fit", "40", "--num-validation", "30", "--no-labels", "--span", "1", "--span", "3", "--quiet"]


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["delayer", *words])
        if code:
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert stop.value.code == code
        else:
            cli.main()
        out, err = capsys.readouterr()
        return err if code else out

    return run


def test_a_study_keeps_what_repeats_it(command, tmp_path):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    command("plan", "tiny:network", *WORDS, "--out", str(first))
    kept = yaml.safe_load((first / "config.yaml").read_text())
    assert kept == {
        "model": "tiny:network",
        "data": ["digits"],
        "out": str(first),
        "num-fit": 40,
        "num-validation": 30,
        "labels": False,
        "span": ["1", "3"],
    }
    command("plan", "tiny:network", "--config", str(first / "config.yaml"), "--out", str(again), "--quiet")
    assert (again / "plan.json").read_bytes() == (first / "plan.json").read_bytes()
    assert yaml.safe_load((again / "config.yaml").read_text()) == kept | {"out": str(again)}
    command("plan", "tiny:network", "--config", str(first / "config.yaml"), "--span", "2", "--out", str(other), "--quiet")
    assert yaml.safe_load((other / "config.yaml").read_text())["span"] == ["2"], "what is typed goes before the file"


def test_code_that_a_file_names_is_typed_or_not_run(command, tmp_path):
    command("plan", "tiny:network", *WORDS, "--out", str(tmp_path / "study"))
    config = str(tmp_path / "study" / "config.yaml")
    err = command("plan", "--config", config, code=2)
    assert f"names tiny:network, code that would run. Type it: delayer plan tiny:network --config {config}" in err.replace(
        "python -m pytest.", ""
    ).replace("__main__.py", "delayer")


@pytest.mark.parametrize(
    "text, said",
    [
        ("trust: true", "says trust, which is never taken from a file"),
        ("import: [os]", "says import, which is never taken from a file"),
        ("factory: a:b", "says factory, which is never taken from a file"),
        ("allow-changed: true", "says allow-changed, which is never taken from a file"),
        ("remov: blocks=1", "Did you mean remove?"),
        ("- remove", "is no list of options"),
        ("remove: {a: 1}", "is no list of options"),
        ("remove: !!python/object/apply:os.system [echo]", "could not be read as a configuration"),
        ("a: [", "could not be read as a configuration"),
        ("\udc80", "could not be read as a configuration"),
        ("x: " + "1" * (1 << 20), "more than a configuration"),
        ("model: timm:local-dir:/tmp/x\ndata: [digits]", "code that would run"),
        ("effort: many", "Invalid value for '--effort'"),
    ],
)
def test_a_file_that_does_not_do_is_refused_in_one_sentence(command, tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert said in command("plan", *(["tiny:network"] if "model" not in text else []), "--config", str(path), code=2)


def test_a_missing_file_is_named(command, tmp_path):
    assert "could not be read as a configuration" in command("run", "--config", str(tmp_path / "none.yaml"), code=2)


@pytest.mark.parametrize("name, text", [("score", "with: [tiny:network]"), ("run", "lm-eval: task.yaml")])
def test_what_else_runs_code_is_typed(command, tmp_path, name, text):
    """Other networks may be functions, and a task file of lm-eval may name functions."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "which is never taken from a file" in command(name, "tiny:network", "--config", str(path), code=2)


def test_a_refused_command_leaves_no_folder(command, tmp_path):
    command("plan", "tiny:network", "--data", "digits", "--remove", "blocks=99", "--out", str(tmp_path / "study"), code=2)
    assert not (tmp_path / "study" / "config.yaml").exists()
