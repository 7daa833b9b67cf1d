"""How the command ends: in one line and with the right code, whenever and wherever it is stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from delayer import cli

ROOT = Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


def start(code: str, *words: str, **more) -> subprocess.Popen:
    """Python in a process of its own, where Ctrl-C does what it does at a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE} | more,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


COMMAND = "import sys; sys.argv[0] = 'delayer'; from delayer_command import main; main()"


def test_ctrl_c_while_torch_is_imported_is_one_line():
    tell = "import sys; print('begun', flush=True); " + COMMAND
    process = start(tell, "list")
    process.stdout.readline()
    time.sleep(0.3)  # of two seconds or more
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == "Stopped. The same command goes on where this one stood.", err


def test_the_console_script_is_that_module_and_costs_nothing():
    code = "import sys, delayer_command; print(len({'torch', 'pydantic', 'typer', 'delayer'} & set(sys.modules)))"
    assert start(code).communicate(timeout=60)[0].strip() == "0"
    assert 'delayer = "delayer_command:main"' in (ROOT / "pyproject.toml").read_text()


BODY = """
import sys, errno, os
sys.argv[0] = 'delayer'
from delayer.cli import main
from delayer.cli.app import app
@app.command("fail")
def fail(kind: str) -> None:
    if kind == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/some/where")
    if kind == "full in a library":
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    if kind == "forbidden":
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/some/where")
    if kind == "missing":
        import a_library_that_is_not_there
    if kind == "bug":
        raise FileNotFoundError("a fault of ours")
    print("x" * 100_000)
main()
"""
ENDS = {
    ("fail", "full"): (2, "delayer: /some/where could not be used (No space left on device). Free some space"),
    ("fail", "full in a library"): (2, "delayer: A file could not be written (No space left on device). Free some space"),
    ("fail", "forbidden"): (2, "delayer: /some/where could not be used (Permission denied). Check the path"),
    ("fail", "missing"): (2, "delayer: This needs a_library_that_is_not_there, which is not installed: pip install"),
    ("fail", "bug"): (1, "Traceback"),
    ("nothing-of-that-name",): (2, "No such command"),
    ("list", "--nothing-of-that-name"): (2, "No such option"),
}


@pytest.mark.parametrize("words", ENDS)
def test_what_goes_wrong_has_its_sentence_and_its_code(words, monkeypatch, capsys):
    """In this process, which has imported everything; the exit code is what `sys.exit` was given."""
    from delayer.cli.app import app

    monkeypatch.setattr(sys, "argv", ["delayer", *words])
    known = list(app.registered_commands)
    code = 0
    try:
        exec(compile(BODY.replace("sys.argv[0] = 'delayer'", ""), "body", "exec"), {})
    except SystemExit as stop:
        code = stop.code
    except FileNotFoundError:
        code, text = 1, "Traceback"
        assert ENDS[words] == (code, text)
        return
    finally:
        app.registered_commands[:] = known
    expected, said = ENDS[words]
    err = capsys.readouterr().err
    assert code == expected and said in err and "Traceback" not in err
    assert not err.startswith("delayer: ") or len(err.splitlines()) == 1


def test_a_full_standard_output():
    """In processes of their own: what Python does at its very end belongs to it."""
    with open("/dev/full", "w") as full:
        process = start(BODY, "fail", "print", stdout=full)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 2 and err.splitlines() == [
        "delayer: A file could not be written (No space left on device). Free some space, or choose another --out folder; the "
        "same command then goes on where this one stood."
    ]


@pytest.mark.slow
def test_a_closed_standard_output():
    """The same for what nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    process = start(BODY, "fail", "print", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=90)
    assert process.returncode in (1, 141) and err == ""


def test_the_callers_signal_handler_is_back_afterwards(monkeypatch, capsys):
    def mine(*_):
        raise AssertionError

    monkeypatch.setattr(sys, "argv", ["delayer", "--version"])
    before = signal.signal(signal.SIGTERM, mine)
    try:
        cli.main()
        assert signal.getsignal(signal.SIGTERM) is mine
        monkeypatch.setattr(sys, "argv", ["delayer", "nothing-of-that-name"])
        with pytest.raises(SystemExit):
            cli.main()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.setattr(sys, "argv", ["delayer", "--version"])
    elsewhere = threading.Thread(target=cli.main)  # where no handler can be set
    elsewhere.start()
    elsewhere.join()
    assert "0.1" in capsys.readouterr().out
