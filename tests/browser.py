"""A headless Chromium without network that opens a file and tells what happened on the page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass
class Visit:
    """A page under watch: what it complained about, and what it asked the outside for."""

    page: object
    problems: list[str] = field(default_factory=list)
    """Console errors and warnings, and uncaught exceptions."""
    requests: list[str] = field(default_factory=list)
    """Addresses other than local files and data; all are refused."""

    def open(self, path: Path) -> None:
        """Load a report and wait until all its figures are drawn."""
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("html[data-drawn]", timeout=60_000)

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Until JavaScript says true; asked from outside, since the page forbids evaluation within."""
        for _ in range(int(10 * seconds)):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{expression} did not become true within {seconds:g} s")

    def screenshot(self, path: Path) -> None:
        self.page.screenshot(path=str(path), full_page=True)


@contextmanager
def browser() -> Iterator[object]:
    """A running Chromium; skips the test, with the reason, where there is none."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        try:
            yield running
        finally:
            running.close()


@contextmanager
def visit(running, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Iterator[Visit]:
    """A fresh, offline page of a size and colour scheme."""
    context = running.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True, device_scale_factor=1
    )
    seen = Visit(context.new_page())

    def refuse(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            return route.continue_()
        seen.requests.append(route.request.url)
        route.abort()
        return None

    seen.page.route("**/*", refuse)
    seen.page.on("console", lambda m: seen.problems.append(m.text) if m.type in ("error", "warning") else None)
    seen.page.on("pageerror", lambda error: seen.problems.append(str(error)))
    try:
        yield seen
    finally:
        context.close()
