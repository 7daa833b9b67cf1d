"""The command `delayer`. It is no part of the package, so that Ctrl-C ends in one line also while torch is imported."""

import os
import signal
import sys


def main() -> None:
    """Import the command line, which takes seconds, and run it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not where a shell told background jobs to ignore it
        signal.signal(signal.SIGINT, _stop)
    try:
        from delayer.cli import main as run
    finally:
        signal.signal(signal.SIGINT, before)
    run()


def _stop(*_) -> None:
    """Nothing was begun, so nothing is cleared up; an exception could be swallowed by a library that is half imported."""
    print("\nStopped. The same command goes on where this one stood.", file=sys.stderr, flush=True)
    os._exit(130)


if __name__ == "__main__":
    main()
