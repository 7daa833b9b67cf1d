"""Running the command line: exit codes and what is said when something fails."""

import os
import signal
import sys

import torch
import typer

from delayer import __version__
from delayer.cli.app import app
from delayer.errors import DelayerError
from delayer.processes import join_processes

OUT_OF_MEMORY = "Out of memory. Half the --batch-size needs about half of it; --share and --memory make statistics smaller."


def main() -> None:
    """Run the command line: exit 2 with one sentence on errors that delayer knows, 130 when interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if "--version" in sys.argv[1:2]:
        print(__version__)
        return
    try:
        if join_processes()[0] > 0:  # the first of several processes speaks for all
            sys.stdout = open(os.devnull, "w")
            sys.argv += [] if "--quiet" in sys.argv or sys.argv[1:2] in (["report"], ["list"]) else ["--quiet"]
        if code := app(standalone_mode=False):  # typer turns Ctrl-C into this number
            sys.exit(_interrupted() if code == 130 else code)
    except DelayerError as error:
        _fail(str(error))
    except MemoryError:
        _fail(OUT_OF_MEMORY)
    except RuntimeError as error:  # the CPU's allocator raises a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        _fail(OUT_OF_MEMORY)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_interrupted())
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except BaseException as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # a usage error of the command line itself
            error.show()
            sys.exit(error.exit_code)
        raise


def _interrupted() -> int:
    print("\nStopped. The same command goes on where this one stood.", file=sys.stderr)
    return 130


def _fail(text: str) -> None:
    print(f"delayer: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(2)
