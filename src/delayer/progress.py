"""Progress on long work: bars on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int, int], None]


class Reporter:
    """Says what goes on, on standard error; results go to standard output.

    quiet: say nothing. Bars appear on a terminal only; elsewhere a line every ten seconds and one at the end.
    """

    def __init__(self, *, quiet: bool = True, every: float = 10.0):
        self.quiet, self.every = quiet, every
        self.bars = not quiet and sys.stderr.isatty()

    def line(self, text: str) -> None:
        """One line on standard error, unless it is quiet."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Tick]:
        """A function to call with (done, total) while one piece of work goes on."""
        if self.quiet:
            yield lambda done, total: None
        elif self.bars:
            yield from self._bar(title)
        else:
            yield from self._lines(title)

    def _bar(self, title: str) -> Iterator[Tick]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
            task = bars.add_task(title, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    def _lines(self, title: str) -> Iterator[Tick]:
        begun = last = time.monotonic()

        def tick(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= self.every and done < total:
                last = now
                left = (now - begun) / max(done, 1) * (total - done)
                self.line(f"{title}: {done} of {total}, about {left:.0f} s left")

        yield tick
        self.line(f"{title}: done in {time.monotonic() - begun:.1f} s")
