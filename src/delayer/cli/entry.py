"""Running the command line: exit codes and what is said when something fails."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import typer

from delayer import __version__
from delayer.cli.app import app
from delayer.errors import DelayerError
from delayer.observing.processes import join_processes

OUT_OF_MEMORY = "Out of memory. Half the --batch-size needs about half of it; --share and --memory make statistics smaller."
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP}


def main() -> None:
    """Run the command line: exit 2 with one sentence on errors that delayer knows, 130 when interrupted.

    What the caller does on SIGTERM is put back afterwards.
    """
    with _terminable():
        try:
            _run()
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read has seen enough; Python would complain of it once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + signal.SIGPIPE)
        except OSError as error:
            if error.errno not in NO_ROOM | NOT_OURS:
                raise
            _fail(_said_of(error))


@contextmanager
def _terminable() -> Iterator[None]:
    """Inside, SIGTERM ends in SystemExit, so that what was begun is cleared up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@cache
def _command(*registered: Any) -> Any:
    """The command line with all its commands and options, which take a while to gather; anew where more were registered."""
    return typer.main.get_command(app)


def _run() -> None:
    if "--version" in sys.argv[1:2]:
        print(__version__)
        return
    try:
        if join_processes()[0] > 0:  # the first of several processes speaks for all
            sys.stdout = open(os.devnull, "w")
            sys.argv += [] if "--quiet" in sys.argv or sys.argv[1:2] in (["report"], ["list"]) else ["--quiet"]
        command = _command(*app.registered_commands, *app.registered_groups)
        if code := command(standalone_mode=False):  # typer turns Ctrl-C into this number
            sys.exit(_interrupted() if code == 130 else code)
    except DelayerError as error:
        _fail(str(error))
    except MemoryError:
        _fail(OUT_OF_MEMORY)
    except ModuleNotFoundError as error:
        if (error.name or "delayer").partition(".")[0] == "delayer":
            raise
        _fail(f"This needs {error.name}, which is not installed: pip install 'delayer[all]' brings all that delayer can use.")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_interrupted())
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except OSError:
        raise
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a usage error of the command line itself
            usage: Any = error
            usage.show()
            sys.exit(usage.exit_code)
        # Libraries in other languages have no exceptions for these: the CPU's allocator, safetensors, torch's file writer.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            _fail(OUT_OF_MEMORY)
        if "No space left on device" in str(error) or "File too large" in str(error):
            _fail(_said_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        raise


def _said_of(error: OSError) -> str:
    where = f"{error.filename} could not be used" if error.filename else "A file could not be written"
    advice = "Free some space, or choose another --out folder; the same command then goes on where this one stood."
    return f"{where} ({error.strerror or error}). {advice if error.errno in NO_ROOM else 'Check the path and its permissions.'}"


def _interrupted() -> int:
    print("\nStopped. The same command goes on where this one stood.", file=sys.stderr)
    return 130


def _fail(text: str) -> None:
    print(f"delayer: {text}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # full, or gone: this is what was just said, and Python would say it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(2)
